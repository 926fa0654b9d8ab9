"""The model card of a version: what it is for, what it was made of, how good it is, and what became of it.

After Mitchell et al. (2019), "Model Cards for Model Reporting". What only people know
comes from the model's spec, and its absence is said; all else is on record. A card is a
page; `described` has the same for programs.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from trimtab_contracts.monitoring.v1.monitoring_pb2 import Loop
from trimtab_contracts.registry.v1.registry_pb2 import AuditEntry, Deployment, Version, VersionEvent
from trimtab_contracts.training.v1.training_pb2 import Run
from trimtab_core.durations import format_duration
from trimtab_core.features import tables_named, views_named
from trimtab_core.specs import CardSpec, Model, gaps, to_document
from trimtab_runtime.clock import from_timestamp, iso
from trimtab_runtime.errors import NotFound

from trimtab import evidence as figures_of
from trimtab.client import Trimtab
from trimtab.figures import MOST_FEATURES, figures
from trimtab.pages import Block, Bullets, Heading, Items, Page, Picture, Row, Table, Text, Warnings
from trimtab.roles import serving

_AUDITED = 10_000


@dataclass(frozen=True, slots=True)
class ModelCard:
    """All that is known of a version of a model."""

    model: Model
    """As it is declared now."""
    generation: int
    version: Version
    deployment: Deployment
    evidence: Mapping[str, Any] | None
    """None of a version that came without."""
    run: Run | None
    loop: Loop | None
    tags: Sequence[str]
    """Of its dataset."""
    deeds: Sequence[AuditEntry]
    """What was done to it or with it, oldest first."""

    @property
    def warnings(self) -> list[str]:
        """What the card lacks, a sentence each."""
        found = [f"`{'.'.join(map(str, place))}`: {said}." for place, said in gaps(self.model)]
        made = self.version.candidate.model_generation
        if made != self.generation:
            found.append(
                f"The model was declared anew since: what follows of its spec is of generation {self.generation}, and this "
                f"version was trained by generation {made}."
            )
        if self.evidence is None:
            found.append("This version came without evidence: no intervals, slices or plots are known of it.")
        return found

    def described(self) -> dict[str, Any]:
        """Return what it says as plain data."""
        return {
            "model": to_document(self.model),
            "version": self.version.number,
            "warnings": self.warnings,
            "stage": _stage(self.version),
            "data": self._data(),
            "metrics": figures_of.metrics(self.version.candidate),
            "evidence": self.evidence,
            "gates": self._gates(),
            "lineage": self._lineage(),
            "approvals": self._approvals(),
            "served": self._served(),
            "history": self._history(),
            "notes": self._notes(),
        }

    def page(self) -> Page:
        """Return it as a page."""
        name, said = self.model.name, self.model.metadata
        return Page(
            f"{name}, version {self.version.number}",
            [
                *([Text(said.description)] if said.description else []),
                *([Warnings(self.warnings)] if self.warnings else []),
                Items({"owner": said.owner, "standing": self._standing(), "made": self._made()}),
                *self._purpose(),
                *self._evaluation(),
                Heading("Gates"),
                Table(self._gates(), empty="It had no gates to pass."),
                *self._pictures(),
                *self._training(),
                Heading("Lineage"),
                Items(self._lineage()),
                Heading("Approvals"),
                Text(self._waited()),
                Table(self._approvals()),
                Heading("History"),
                Items({"served": self._served()}),
                Table(self._history(), empty="Nothing is on record."),
                Heading("Notes"),
                Table(self._notes(), empty="Nobody wrote a note on its run: `trimtab run note`."),
            ],
        )

    def _made(self) -> str:
        kind = dict(self.version.candidate.parameters).get("kind")
        return f"{_time(self.version, 'created_at')}, {kind or 'model'} for {self.model.spec.task}"

    def _standing(self) -> str:
        return ", ".join([_stage(self.version), *(f"{role} now" for role in self._roles())])

    def _roles(self) -> list[str]:
        return [role for role, each in serving(self.deployment).items() if each.number == self.version.number]

    def _purpose(self) -> Iterator[Block]:
        card = self.model.spec.card or CardSpec()
        yield Heading("Purpose and use")
        yield Items({"purpose": card.purpose, "intended use": card.intended_use})
        if card.limits:
            yield Text("Known limits:")
            yield Bullets(card.limits)
        if not (card.purpose or card.intended_use or card.limits):
            yield Text("Nobody has said yet: write `spec.card` with purpose, intended_use and limits.")

    def _evaluation(self) -> Iterator[Block]:
        yield Heading("How good it is")
        found = self.evidence
        if found is None:
            metrics = figures_of.metrics(self.version.candidate)
            yield Table([{"metric": name, "value": value} for name, value in metrics.items()])
            return
        yield Text(
            f"On the {found['rows']:,} held-out rows from {iso(found['from_ms'])} to {iso(found['to_ms'])}, "
            f"{self._predicted(found)}; with {found['confidence']:.0%} intervals by the bootstrap over contiguous rows."
        )
        yield Table(figures_of.rows(found))
        if found["champion"]:
            yield Text(
                f"The champion beside it was version {self.version.candidate.champion_version}, asked of "
                f"{found['champion']['rows']:,} of these rows: of those that it was not fitted to or, where they are too few, of "
                "all, which gives it the advantage."
            )
        by_class = found.get("classes")
        for sliced in [*([by_class] if by_class else []), *found["slices"]]:
            yield Heading(f"By {sliced['by']}", 3)
            if sliced is by_class:
                yield Text(
                    "Each class against the rest, where a row is said to be of its most probable class; rows are its labels."
                )
            yield Table(figures_of.slices(sliced))
            if sliced["left_out"]:
                yield Text(f"{sliced['left_out']} more with fewer rows are left out.")

    @property
    def _was_brought(self) -> bool:
        """Whether it was registered, or made of versions: nothing was fitted for it here."""
        return dict(self.version.candidate.parameters).get("kind") in ("registered", "ensemble")

    def _predicted(self, found: Mapping[str, Any]) -> str:
        if not self._was_brought:
            return "each predicted by a fit to what was known before it"
        if found["from_ms"] > from_timestamp(self.version.candidate.trained_to):
            return "as the model answers them, which was trained on none of them"
        return "as the model answers them, which may have been trained on them: nobody said up to when it was"

    def _gates(self) -> list[Row]:
        return [
            {
                "gate": gate.gate,
                "passed": "yes" if gate.passed else "NO",
                "value": gate.value,
                "limit": gate.limit,
                "at least": gate.low if gate.HasField("low") else None,
                "at most": gate.high if gate.HasField("high") else None,
                "sentence": gate.sentence,
            }
            for gate in self.version.gates
        ]

    def _pictures(self) -> Iterator[Block]:
        if self.evidence is None:
            return
        yield Heading("Plots")
        for drawn in figures({f"version {self.version.number}": self.evidence}):
            yield Picture(drawn.name, drawn.svg, drawn.caption)
        leaning = self.evidence["importance"]
        yield Heading("What it leans on", 3)
        yield Text(
            f"How much {leaning['metric']} rises when a feature's values are shuffled among rows that are near in time, over "
            f"{leaning['repeats']} repeats on {leaning['rows']:,} held-out rows. It says what this model makes its answers "
            "of, not what causes what; features that say the same stand in for each other."
        )
        most = leaning["features"][:MOST_FEATURES]
        yield Table(
            [
                {
                    "feature": f"`{each['feature']}`",
                    "rise": each["rise"],
                    "standard deviation": each["spread"],
                }
                for each in most
            ]
        )

    def _training(self) -> Iterator[Block]:
        candidate = self.version.candidate
        yield Heading("Data")
        yield Items(self._data())
        yield Heading("Features", 3)
        yield Bullets([f"`{name}`" for name in candidate.features])
        yield Heading("Training", 3)
        parameters = {
            name: int(value) if isinstance(value, float) and value.is_integer() else value
            for name, value in dict(candidate.parameters).items()
            if value is not None
        }
        ours = {} if self._was_brought else {"seed": candidate.seed, "window": self._window()}
        yield Items(parameters | ours)
        yield Table(
            [{"software": name, "version": value} for name, value in sorted(candidate.environment.items())]
        )

    def _window(self) -> str:
        spec = self.model.spec.trainer
        return f"{format_duration(spec.window)}, of which the newest {spec.holdout:.0%} are held out"

    def _data(self) -> dict[str, Any]:
        spec, candidate = self.model.spec, self.version.candidate
        views = {name for text in spec.features for name in views_named(text)} - {"request"}
        tables = {name for text in spec.features for name in tables_named(text)}
        return {
            "source": f"`{spec.source}`",
            "label": f"`{spec.label.source}.{spec.label.value}`, within {format_duration(spec.label.within)}",
            "views": ", ".join(sorted(views)),
            "tables": ", ".join(sorted(tables)),
            **self._rows(),
            "dataset": candidate.dataset_digest,
            "dataset tags": ", ".join(self.tags),
            "versions of tables": ", ".join(f"{each.table} {each.version}" for each in candidate.tables),
        }

    def _rows(self) -> dict[str, Any]:
        candidate = self.version.candidate
        rows, newest = f"{candidate.rows:,}", _time(candidate, "trained_to")
        if self._was_brought:
            return {"labelled rows at hand": rows, "trained, at the latest, up to": newest}
        return {"rows it was fitted to": rows, "from": _time(candidate, "trained_from"), "to": newest}

    def _lineage(self) -> dict[str, Any]:
        version, candidate, loop = self.version, self.version.candidate, self.loop
        return {
            "model file": f"{candidate.model.digest} ({candidate.model.size:,} bytes)",
            "dataset": candidate.dataset_digest,
            "run": candidate.run_id,
            "ordered by": self.run.event.trigger if self.run else None,
            "version": f"{version.number} of generation {candidate.model_generation} of the spec",
            "evaluated beside": f"version {candidate.champion_version}" if candidate.champion_version else None,
            "deployment": f"generation {self.deployment.generation}" if self._roles() else None,
            "loop": version.loop_id,
            "loop began with": (loop.drift.summary or loop.reason) if loop else None,
            "loop ended with": (loop.outcome or loop.state) if loop else None,
        }  # fmt: skip

    def _waited(self) -> str:
        version = self.version
        if not version.HasField("approval"):
            return "It needed nobody's approval."
        asked = version.approval
        who = f"with the role {' or '.join(asked.by)}" if asked.by else "of any role"
        return f"It needs the approval of {asked.approvers} {'person' if asked.approvers == 1 else 'people'} {who}."

    def _approvals(self) -> list[Row]:
        return [
            {"at": _time(given, "at"), "by": given.actor, "comment": given.comment}
            for given in self.version.approval.given
        ]

    def _served(self) -> str:
        began, ended = (_time(self.version, name) for name in ("live_from", "live_to"))
        return f"from {began} {f'to {ended}' if ended else 'on'}" if began else "never as the champion"

    def _history(self) -> list[Row]:
        return [
            {"at": _time(deed, "at"), "what": deed.action.replace("_", " "), "by": deed.actor, "why": deed.reason}
            for deed in self.deeds
        ]  # fmt: skip

    def _notes(self) -> list[Row]:
        notes = self.run.notes if self.run else ()
        return [{"at": _time(note, "at"), "by": note.by, "note": note.text} for note in notes]


async def card(trimtab: Trimtab, name: str, number: int | None = None) -> ModelCard:
    """Return the card of a version; of the champion where no number is given, or the newest if nothing serves yet.

    Raises:
        NotFound: there is no such model, or it has no such version.
    """
    model = await trimtab.model(name)
    versions = {version.number: version for version in await trimtab.versions(name)}
    deployment = await trimtab.deployment(name)
    wanted = number or deployment.champion.number or max(versions, default=0)
    if wanted not in versions:
        which = f"no version {number}" if number else "no version yet"
        raise NotFound(f"model {name!r} has {which}: look at `trimtab model versions {name}`")
    version = versions[wanted]
    run_id = version.candidate.run_id
    deeds = await trimtab.audit(model.key, limit=_AUDITED)
    resource = next(each for each in await trimtab.resources("Model") if each.name == name)
    dataset = await _if_there(trimtab.dataset(run_id))
    return ModelCard(
        model=model,
        generation=resource.generation,
        version=version,
        deployment=deployment,
        evidence=await _if_there(trimtab.evidence(run_id)),
        run=await _if_there(trimtab.run(run_id)),
        loop=await _if_there(trimtab.loop(version.loop_id)),
        tags=dataset.tags if dataset else (),
        deeds=[deed for deed in reversed(deeds) if dict(deed.details).get("version") == wanted],
    )


async def _if_there(question: Any) -> Any:
    """Return an answer, or None where there is nothing of the kind, as of what another registry has forgotten."""
    try:
        return await question
    except NotFound:
        return None


def _stage(version: Version) -> str:
    return VersionEvent.Stage.Name(version.stage).lower().replace("_", " ")


def _time(message: Any, name: str) -> str:
    return iso(from_timestamp(getattr(message, name))) if message.HasField(name) else ""
