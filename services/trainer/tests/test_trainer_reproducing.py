"""A run made once more: the same to the bit, or what differs is named."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pyarrow as pa
import pytest
from trimtab_contracts.training.v1.training_pb2 import RunEvent
from trimtab_core.specs import AnyResource, Family, Model, parse
from trimtab_runtime.clock import ManualClock
from trimtab_runtime.errors import NotFound
from trimtab_runtime.specbook import SpecBook
from trimtab_runtime.testing import eventually
from trimtab_trainer import environment, job, sandbox
from trimtab_trainer.errors import UnknownRun
from trimtab_trainer.nursery import Nursery
from trimtab_trainer.recorded import Runs
from trimtab_trainer.sandbox import ChildProcess, Files
from trimtab_trainer.testing import MemoryStore
from trimtab_trainer.usecases.entities import Champion, Command, Recipe, StoredFile, TrainingSet
from trimtab_trainer.usecases.jobs import Jobs
from trimtab_training.errors import RunFailed
from trimtab_training.progress import Tell

HOUR = 3_600_000
PARAMETERS: dict[str, dict[str, Any]] = {
    "random_forest": {"n_estimators": 5},
    "hist_gradient_boosting": {"max_iter": 5},
    "lightgbm": {"n_estimators": 5},
    "xgboost": {"n_estimators": 5},
    "neural_network": {"epochs": 2, "hidden": 8},
}
"""So that a fit takes little; the others are quick as they are."""
needs_torch = pytest.mark.skipif(find_spec("torch") is None, reason="`make test-torch` has PyTorch")
KINDS = [
    pytest.param(kind, marks=needs_torch if kind == "neural_network" else ()) for kind in get_args(Family)
]


def a_model(kind: str = "linear", task: str = "regression", **spec: Any) -> Model:
    document = {
        "task": task,
        "source": "trips",
        "features": ["request.x", "speed.mph_mean_1d"],
        "rollout": {"cap": 10},
        "label": {"source": "ends", "on": "id", "value": "y", "within": "1h"},
        "trainer": {"window": "30d", "kind": kind, "parameters": PARAMETERS.get(kind, {}), "seed": 7},
    }
    model = parse("Model", {"metadata": {"name": "m"}, "spec": {**document, **spec}})
    assert isinstance(model, Model)
    return model


def a_source(name: str, **more: Any) -> AnyResource:
    fields: dict[str, Any] = {
        "id": {"type": "string"},
        "at": {"type": "timestamp"},
        "zone": {"type": "integer"},
    }
    spec = {"key": "id", "event_time": "at", "lateness": "1h", "fields": fields, **more}
    return parse("Source", {"metadata": {"name": name}, "spec": spec})


def a_view(window: str = "1d") -> AnyResource:
    aggregates = [{"field": "zone", "functions": ["mean"], "windows": [window]}]
    spec = {"source": "rides", "entity": "zone", "aggregates": aggregates, "hop": "6h", "ttl": "60d"}
    return parse("FeatureView", {"metadata": {"name": "speed"}, "spec": spec})


class Features:
    """The rows of each version of the tables; `gone` are those that are kept no more."""

    def __init__(self, task: str) -> None:
        self.task = task
        self.version = 3
        self.gone: set[int] = set()
        self.asked: list[Recipe] = []

    async def training_set(self, recipe: Recipe, folder: Path) -> TrainingSet:
        self.asked.append(recipe)
        version = dict(recipe.tables).get("events/trips", self.version)
        if version in self.gone:
            raise NotFound(f"version {version} of events/trips is not kept any more")
        rng = np.random.default_rng(version)
        x = rng.normal(size=(400, 2))
        x[rng.random((400, 2)) < 0.05] = np.nan
        label = np.nan_to_num(x[:, 0]) + rng.normal(0, 0.3, 400)
        table = pa.table(
            {
                "key": [str(at) for at in range(400)],
                "event_time_ms": np.arange(400) * HOUR,
                "request.x": x[:, 0],
                "speed.mph_mean_1d": x[:, 1],
                "label": label if self.task == "regression" else (label > 0).astype(float),
            }
        )
        with (
            pa.OSFile(str(folder / "rows.arrow"), "wb") as file,
            pa.ipc.new_stream(file, table.schema) as writer,
        ):
            writer.write_table(table)
        return TrainingSet(folder / "rows.arrow", (("events/trips", version),), f"digest-{version}", 400)

    async def watermark_ms(self, model: str) -> int | None:
        return None


class Champions:
    """Nothing is live, until something is."""

    live: Champion | None = None

    def champion(self, model: str) -> Champion | None:
        return self.live


class Place:
    """A trainer whose jobs are done here, in this process."""

    def __init__(self, folder: Path, model: Model) -> None:
        self.store, self.book = MemoryStore(), SpecBook()
        for each in (model, a_source("trips"), a_source("ends"), a_source("rides"), a_view()):
            self.book.put(each)
        self.features, self.champions = Features(model.spec.task), Champions()
        features: Any = self.features
        self.jobs = Jobs(
            self.store, self.book, self.champions, features, ChildProcess(Nursery()), Files(folder / "data"), Runs(self.store),
            ManualClock(HOUR), owner="me", lease_ms=10_000, patience_ms=60_000, folder=folder / "jobs",
        )  # fmt: skip

    async def ended(self, run_id: str) -> RunEvent:
        """Return how a run has ended, once it has."""
        found = RunEvent()

        async def has_ended() -> bool:
            told = await self.store.get(run_id)
            assert told is not None
            found.CopyFrom(RunEvent.FromString(told.message))
            return found.status in (RunEvent.SUCCEEDED, RunEvent.FAILED)

        await eventually(has_ended, what="the run to end")
        return found

    async def train(self, id: str = "c") -> RunEvent:
        """Train, and return how it ended."""
        await self.jobs.order(Command(id, "m", "loop", "data", as_of_ms=400 * HOUR))
        (newest, *_) = await self.store.list("m", 1)
        return await self.ended(newest.job.run_id)

    async def again(self, run_id: str, id: str = "again") -> RunEvent:
        """Make a run once more, and return how that ended."""
        return await self.ended(await self.jobs.reproduce(run_id, id=id))


@pytest.fixture
def make_place(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[..., Any]:
    async def run(folder: Path, tell: Tell, **_: object) -> int:
        return job.main(folder, tell)

    monkeypatch.setattr(sandbox, "run", run)

    @asynccontextmanager
    async def make(model: Model | None = None) -> AsyncIterator[Place]:
        place = Place(tmp_path, model or a_model())
        async with asyncio.TaskGroup() as tasks:
            task = tasks.create_task(place.jobs.work())
            yield place
            task.cancel()

    return make


def differing(event: RunEvent) -> list[str]:
    return [each.what for each in event.reproduction.compared if not each.same]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("task", ["regression", "binary"])
async def test_a_run_made_again_is_the_same_to_the_bit(
    make_place: Callable[..., Any], kind: str, task: str
) -> None:
    async with make_place(a_model(kind, task)) as place:
        run = await place.train()
        place.features.version = 4  # more has come since; the run's own rows are asked for
        for name in ("once", "twice"):
            again = await place.again(run.run_id, name)

            assert again.reproduction.identical, again.reproduction.sentence
            assert differing(again) == []
            assert {each.what for each in again.reproduction.compared} >= {
                "model.onnx", "reference.arrow", "evaluation.arrow", "evidence.json",
                "metric mae" if task == "regression" else "metric log_loss",
                "dataset", "seed", "definition of FeatureView/speed", "version of events/trips", "environment distributions",
            }  # fmt: skip
            assert again.reproduction.sentence == "It came out the same, to the bit."


async def test_a_run_made_again_gives_no_candidate_and_is_no_news(make_place: Callable[..., Any]) -> None:
    async with make_place() as place:
        run = await place.train()
        told = len(place.store.published)

        again = await place.again(run.run_id)

        assert not again.HasField("candidate")
        assert (again.trigger, again.reproduces) == ("reproduce", run.run_id)
        assert len(place.store.published) == told


async def test_the_champion_of_then_is_asked_and_not_that_of_now(make_place: Callable[..., Any]) -> None:
    async with make_place() as place:
        first = await place.train("one")
        made = await Runs(place.store).recorded(first.run_id)
        stored = made.candidate.model
        file = StoredFile(stored.uri, stored.digest, stored.size)
        place.champions.live = Champion(1, file, tuple(made.candidate.features))
        second = await place.train("two")
        place.champions.live = None

        again = await place.again(second.run_id)

        assert again.reproduction.identical
        assert "metric champion_mae" in {each.what for each in again.reproduction.compared}
        assert place.features.asked[-1].champion is not None


async def test_a_spec_that_has_changed_since_is_read_as_it_was(make_place: Callable[..., Any]) -> None:
    async with make_place() as place:
        run = await place.train()
        place.book.put(a_model("random_forest"), generation=2)

        again = await place.again(run.run_id)

        assert again.reproduction.identical
        assert place.features.asked[-1].model.spec.trainer.kind == "linear"


async def test_rows_that_are_kept_no_more_are_named(make_place: Callable[..., Any]) -> None:
    async with make_place() as place:
        run = await place.train()
        place.features.gone = {3}

        again = await place.again(run.run_id)

        assert not again.reproduction.identical
        assert differing(again) == ["version of events/trips"]
        assert again.reproduction.sentence == (
            "It cannot be made again: version 3 of events/trips is not kept any more; version of events/trips is not what it was."
        )


@pytest.mark.parametrize(
    ("changed", "named"),
    [
        (a_view("2d"), "definition of FeatureView/speed"),
        (a_source("trips", lateness="2h"), "definition of Source/trips"),
        (a_source("ends", lateness="2h"), "definition of Source/ends"),
        (a_source("rides", lateness="2h"), "definition of Source/rides"),
    ],
    ids=lambda it: it if isinstance(it, str) else "",
)
async def test_a_definition_that_is_not_what_it_was_is_named_also_where_it_had_no_effect(
    make_place: Callable[..., Any], changed: AnyResource, named: str
) -> None:
    async with make_place() as place:
        run = await place.train()
        place.book.put(changed, generation=2)

        again = await place.again(run.run_id)

        assert differing(again) == [named]
        assert again.reproduction.sentence == f"It came out the same, to the bit, although {named} differs."


@pytest.mark.parametrize("name", ["source", "distributions", "cpu"])
async def test_software_and_machine_that_differ_are_named(
    make_place: Callable[..., Any], monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    recorded = environment.recorded
    async with make_place() as place:
        run = await place.train()
        monkeypatch.setattr(environment, "recorded", lambda: recorded() | {name: "another"})

        again = await place.again(run.run_id)

        assert differing(again) == [f"environment {name}"]


async def test_code_that_draws_on_chance_is_told_from_an_input_that_differs(
    make_place: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    async with make_place() as place:
        run = await place.train()
        place.features.version = 9
        monkeypatch.setattr(Features, "training_set", _drawing(Features.training_set))

        again = await place.again(run.run_id)

        assert "model.onnx" in differing(again) and "dataset" in differing(again)
        assert again.reproduction.sentence.endswith("came out differently, and dataset differs.")


def _drawing(honest: Any) -> Any:
    async def training_set(self: Features, recipe: Recipe, folder: Path) -> TrainingSet:
        """Give other rows than those of the versions that are asked for."""
        made: TrainingSet = await honest(self, Recipe(recipe.model, 1, recipe.as_of_ms), folder)
        return TrainingSet(made.path, recipe.tables, made.digest, made.rows)

    return training_set


async def test_what_gave_no_candidate_cannot_be_made_again(make_place: Callable[..., Any]) -> None:
    async with make_place(a_model(trainer={"window": "30d", "min_rows": 5_000})) as place:
        failed = await place.train()

        with pytest.raises(RunFailed, match="gave no candidate"):
            await place.jobs.reproduce(failed.run_id, id="again")
        with pytest.raises(UnknownRun, match="'run-x'"):
            await place.jobs.reproduce("run-x", id="other")
