"""The steps that a version takes, each with its entry in the audit log and its news.

A step runs in a unit of work that holds the model's lock, and is told in the trace of
the version's loop: its span starts from the stored `traceparent` and links to what
triggered it.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from trimtab_core import specs
from trimtab_runtime import telemetry
from trimtab_runtime.clock import iso

from trimtab_registry.errors import NotNow, UnknownModel, UnknownVersion
from trimtab_registry.usecases import stages
from trimtab_registry.usecases.entities import Applied, Entry, Stage, StageChange, Version
from trimtab_registry.usecases.ports import Store, Unit
from trimtab_registry.usecases.rollouts import Move, Rollout, Standing, Strategy

REGISTRY = "registry"
"""The actor of what nobody decided."""


@contextmanager
def step(name: str, version: Version, rollout: Rollout | None = None) -> Iterator[None]:
    """Open the span of a step of `version`, in its loop's trace: below its rollout, where it has begun one."""
    begun = rollout is not None and rollout.challenger == version.number
    with telemetry.span(
        f"registry {name}",
        parent=rollout.traceparent if begun and rollout else version.traceparent,
        link=telemetry.traceparent(),
        model=version.model,
        version=version.number,
        loop_id=version.loop_id,
    ):
        yield


async def known(store: Store, model: str) -> Applied:
    """Return a model as applied, or raise `UnknownModel`."""
    found = await store.resource("Model", model)
    if found is None:
        raise UnknownModel(model)
    return found


async def model_spec(store: Store, model: str) -> specs.ModelSpec:
    """Return the current spec of a model, or raise `UnknownModel`."""
    return specs.Model.model_validate((await known(store, model)).document).spec


async def the_version(reader: Store | Unit, model: str, number: int) -> Version:
    """Return a version, or raise `UnknownVersion`."""
    found = await reader.version(model, number)
    if found is None:
        raise UnknownVersion(model, number)
    return found


def check_files(version: Version) -> None:
    """Refuse a version that cannot serve any more.

    Raises:
        NotNow: its files were thrown away.
    """
    if version.files_gone_ms is not None:
        raise NotNow(
            f"the files of version {version.number} of {version.model!r} were thrown away at {iso(version.files_gone_ms)}, "
            "when nothing had needed them for as long as they are kept: train another"
        )


async def set_stage(
    unit: Unit, standing: Standing, version: Version, stage: Stage, sentence: str, *, actor: str, at_ms: int,
    rollout_id: str = "",
) -> None:  # fmt: skip
    """Record that `version` has come to `stage`.

    Raises:
        IllegalStage: it cannot come there from where it is.
    """
    stages.check(version.model, version.number, version.stage, stage)
    await unit.set_stage(StageChange(version, stage, sentence, actor, at_ms, standing.generation, rollout_id))
    await audit(unit, version, stage.value.lower(), sentence, actor=actor, at_ms=at_ms, rollout_id=rollout_id)


async def audit(
    unit: Unit, version: Version, action: str, reason: str, *, actor: str, at_ms: int, **details: Any
) -> None:
    """Append to the audit log what was done to `version`, or with it."""
    named: Mapping[str, Any] = {
        "version": version.number,
        "run_id": version.candidate.run_id,
        "loop_id": version.loop_id,
        **details,
    }
    resource = f"Model/{version.model}"
    await unit.record(
        Entry(
            resource, action, actor, reason, at_ms, {name: held for name, held in named.items() if held != ""}
        )
    )


async def begin(
    unit: Unit, standing: Standing, version: Version, strategy: Strategy, steps: tuple[int, ...], *,
    actor: str, sentence: str, at_ms: int,
) -> Standing:  # fmt: skip
    """Open a rollout of `version`; an undecided challenger gives way to it."""
    standing = await drop(
        unit,
        standing,
        f"superseded by version {version.number} before it was decided",
        actor=actor,
        at_ms=at_ms,
    )
    standing = standing.begin(
        version.number, strategy, steps, opened_at_ms=version.as_of_ms, loop_id=version.loop_id,
        traceparent=telemetry.traceparent() or version.traceparent, at_ms=at_ms,
    )  # fmt: skip
    await unit.save(standing)
    rollout_id = standing.rollout.id if standing.rollout else ""
    await set_stage(
        unit, standing, version, Stage.ACCEPTED, sentence, actor=actor, at_ms=at_ms, rollout_id=rollout_id
    )
    return standing


async def drop(unit: Unit, standing: Standing, sentence: str, *, actor: str, at_ms: int) -> Standing:
    """End the open rollout, if there is one, without its challenger; the champion stays."""
    trial = standing.trial
    if trial is None:
        return standing
    standing = standing.move(Move.DROP, at_ms)
    await unit.save(standing)
    version = await the_version(unit, standing.model, trial.challenger)
    await set_stage(
        unit, standing, version, Stage.ROLLED_BACK, sentence, actor=actor, at_ms=at_ms, rollout_id=trial.id
    )
    return standing


async def promote(
    unit: Unit, standing: Standing, move: Move, sentence: str, *, actor: str, at_ms: int
) -> Standing:
    """Make the challenger the champion by `move`; it is live when serving says so."""
    unseen = standing.champion if standing.champion != standing.live else None
    standing = standing.move(move, at_ms)
    await unit.save(standing)
    version = await the_version(unit, standing.model, standing.champion or 0)
    rollout_id = standing.rollout.id if standing.rollout else ""
    await audit(unit, version, "promoted", sentence, actor=actor, at_ms=at_ms, rollout_id=rollout_id)
    if unseen is not None:
        never_live = await the_version(unit, standing.model, unseen)
        why = f"replaced by version {version.number} before serving had swapped to it"
        await set_stage(unit, standing, never_live, Stage.ROLLED_BACK, why, actor=actor, at_ms=at_ms)
    return standing


async def restore(unit: Unit, standing: Standing, sentence: str, *, actor: str, at_ms: int) -> Standing:
    """Make the previous champion the champion again, and take the present one back."""
    taken_back = await the_version(unit, standing.model, standing.champion or 0)
    standing = standing.restore(at_ms)
    await unit.save(standing)
    await set_stage(unit, standing, taken_back, Stage.ROLLED_BACK, sentence, actor=actor, at_ms=at_ms)
    restored = await the_version(unit, standing.model, standing.champion or 0)
    await audit(unit, restored, "restored", sentence, actor=actor, at_ms=at_ms)
    return standing
