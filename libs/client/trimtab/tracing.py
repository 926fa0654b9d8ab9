"""What a version was made of and what became of it, as a tree that can be read from either end."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from trimtab_contracts.monitoring.v1.monitoring_pb2 import Loop
from trimtab_contracts.registry.v1.registry_pb2 import Version, VersionEvent
from trimtab_contracts.training.v1.training_pb2 import Run
from trimtab_core import specs
from trimtab_core.features import tables_named, views_named
from trimtab_runtime.clock import from_timestamp, iso
from trimtab_runtime.errors import NotFound, Rejected

from trimtab.client import Trimtab
from trimtab.datasets import Dataset, versions
from trimtab.managing import document

ROOTS = ("model", "run", "dataset")


@dataclass(frozen=True, slots=True)
class Branch:
    """One thing, what is said of it, and what hangs on it."""

    what: str
    """kind/name."""
    said: str = ""
    branches: list["Branch"] = field(default_factory=list)

    def plain(self) -> dict[str, Any]:
        """Return it as plain data."""
        return {"what": self.what, "said": self.said, "branches": [each.plain() for each in self.branches]}


async def trace(trimtab: Trimtab, text: str) -> Branch:
    """Return the tree of `model/NAME`, `model/NAME@VERSION`, `run/ID` or `dataset/TAG`.

    Raises:
        Rejected: the text is none of these.
        NotFound: there is no such thing.
    """
    kind, _, name = text.partition("/")
    if kind.lower() not in ROOTS or not name:
        raise Rejected(
            f"{text!r} has no lineage: write model/NAME, model/NAME@VERSION, run/ID, or dataset/TAG or its digest"
        )
    match kind.lower():
        case "model":
            model, _, called = name.partition("@")
            return await _of_model(trimtab, model, called)
        case "run":
            run = await trimtab.run(name)
            return await _of_run(trimtab, run, await trimtab.datasets(run.event.model))
        case _:
            return await _of_dataset(trimtab, name)


async def _of_model(trimtab: Trimtab, model: str, called: str) -> Branch:
    found = [await trimtab.called(model, called)] if called else await trimtab.versions(model)
    datasets, loops = await trimtab.datasets(model), await trimtab.loops(model)
    runs = {run.event.run_id: run for run in await trimtab.runs(model)}
    for each in found:
        if (run_id := each.candidate.run_id) not in runs:  # older than the newest that are listed
            runs[run_id] = await trimtab.run(run_id)
    branches = [
        Branch(
            f"version {each.number}",
            _became(each),
            _made_of(each, runs[each.candidate.run_id], datasets, loops),
        )
        for each in found
    ]
    if called:
        return Branch(f"model/{model} {branches[0].what}", branches[0].said, branches[0].branches)
    spec = await trimtab.resource("Model", model)
    parsed = specs.Model.model_validate(document(spec))
    sources = [specs.Source.model_validate(document(each)) for each in await trimtab.resources("Source")]
    made_of = {each.name: each.spec.predictions_of for each in sources if each.spec.predictions_of}
    return Branch(f"model/{model}", f"generation {spec.generation}", [*_leans_on(parsed, made_of), *branches])


def _made_of(version: Version, run: Run, datasets: Iterable[Dataset], loops: Iterable[Loop]) -> list[Branch]:
    """Return what a version came from."""
    candidate = version.candidate
    below = [_dataset(each) for each in datasets if each.run == candidate.run_id]
    beside = candidate.champion_version
    below += [Branch(f"version {beside}", "the champion that it was evaluated beside")] if beside else []
    below += [
        Branch(
            f"version {each.version}",
            f"a member, which counts {each.weight:.4g}",
            [Branch(f"run/{each.run_id}")],
        )
        for each in candidate.members
    ]
    below += [
        Branch(f"loop/{loop.id}", f"{loop.trigger}: {loop.outcome or loop.reason}")
        for loop in loops
        if loop.id == version.loop_id
    ]
    return [Branch(f"run/{candidate.run_id}", _ran(run), below)]


async def _of_run(trimtab: Trimtab, run: Run, datasets: Iterable[Dataset]) -> Branch:
    """Return a run with what it was made of, and the version that was made of it."""
    event = run.event
    branches = [_dataset(each) for each in datasets if each.run == event.run_id]
    branches += [
        Branch(f"model/{event.model} version {version.number}", _became(version))
        for version in await trimtab.versions(event.model)
        if version.candidate.run_id == event.run_id
    ]
    loops = [loop for loop in await trimtab.loops(event.model) if loop.id == event.loop_id]
    branches += [
        Branch(f"loop/{loop.id}", f"{loop.trigger}: {loop.outcome or loop.reason}") for loop in loops
    ]
    return Branch(f"run/{event.run_id}", _ran(run), branches)


async def _of_dataset(trimtab: Trimtab, name: str) -> Branch:
    """Return a dataset, which a tag, a run or its digest names, with all that was trained on the same rows."""
    known = await trimtab.datasets()
    alike: Sequence[Dataset] = [each for each in known if len(name) >= 8 and each.digest.startswith(name)]
    if not alike:
        named = await trimtab.dataset(name)
        alike = [each for each in known if each.digest == named.digest] or [named]
    if len({each.digest for each in alike}) > 1:
        raise NotFound(f"{name!r} begins the digests of several datasets: write more of it")
    trunk = _dataset(alike[0])
    return Branch(
        trunk.what,
        trunk.said,
        [await _of_run(trimtab, await trimtab.run(each.run), ()) for each in alike],
    )


def _dataset(dataset: Dataset) -> Branch:
    tags = f"; tagged {', '.join(dataset.tags)}" if dataset.tags else ""
    return Branch(
        f"dataset/{dataset.digest[:12]}",
        f"{dataset.rows:,} rows of {iso(dataset.from_ms)} to {iso(dataset.to_ms)}{tags}",
        [Branch(f"table/{each}") for each in versions(dataset.tables).split(", ") if each],
    )


def _leans_on(model: specs.Model, made_of: Mapping[str, str]) -> list[Branch]:
    """Return the specs that a model's is made of; `made_of` says of which model's predictions a source is."""

    def source(name: str, said: str) -> Branch:
        maker = [Branch(f"model/{made_of[name]}", "whose predictions these are")] if name in made_of else []
        return Branch(f"source/{name}", said, maker)

    spec = model.spec
    views = sorted(set[str]().union(*map(views_named, spec.features)) - {"request"})
    tables = sorted(set[str]().union(*map(tables_named, spec.features)))
    return [
        source(spec.source, "its rows"),
        source(spec.label.source, f"its label, {spec.label.value}"),
        *(Branch(f"featureview/{name}", "features") for name in views),
        *(Branch(f"table/{name}", "features") for name in tables),
    ]


def _ran(run: Run) -> str:
    return f"{run.event.trigger}, as of {iso(from_timestamp(run.event.as_of))}"


def _became(version: Version) -> str:
    """Return what became of a version: its stage, what it is called, and when it served."""
    said = [VersionEvent.Stage.Name(version.stage).lower(), *version.aliases]
    if version.HasField("live_from"):
        until = iso(from_timestamp(version.live_to)) if version.HasField("live_to") else "now"
        said.append(f"served {iso(from_timestamp(version.live_from))} to {until}")
    if version.HasField("files_gone"):
        said.append(f"its files went {iso(from_timestamp(version.files_gone))}")
    return ", ".join(said)
