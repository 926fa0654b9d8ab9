"""The steps that a version takes, each with its entry in the audit log and its news.

A step runs in a unit of work that holds the model's lock, and is told in the trace of
the version's loop: its span starts from the stored `traceparent` and links to what
triggered it.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

from trimtab_core import specs
from trimtab_runtime import telemetry
from trimtab_runtime.clock import iso

from trimtab_registry.errors import NotNow, UnknownModel, UnknownVersion
from trimtab_registry.usecases import stages
from trimtab_registry.usecases.entities import Applied, Entry, Stage, StageChange, Version
from trimtab_registry.usecases.ports import Store, Unit
from trimtab_registry.usecases.rollouts import Arm, Move, Rollout, Standing, Strategy

REGISTRY = "registry"
"""The actor of what nobody decided."""


@contextmanager
def step(name: str, version: Version, rollout: Rollout | None = None) -> Iterator[None]:
    """Open the span of a step of `version`, in its loop's trace: below its rollout, where it has begun one."""
    begun = rollout is not None and (rollout.challenger, rollout.loop_id) == (version.number, version.loop_id)
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
    found, _ = specs.read_back("Model", (await known(store, model)).document)
    assert isinstance(found, specs.Model)
    return found.spec


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
    return await open_rollout(
        unit, standing, [version], strategy, steps, actor=actor, sentence=sentence, at_ms=at_ms
    )


async def open_rollout(
    unit: Unit, standing: Standing, versions: Sequence[Version], strategy: Strategy, shares: Sequence[int], *,
    actor: str, sentence: str, at_ms: int,
) -> Standing:  # fmt: skip
    """Open a rollout where none is: of one version, whose share climbs, or a test of several, each with its share."""
    first, arms = versions[0], tuple[Arm, ...]()
    if len(versions) > 1:
        arms = tuple(Arm(version.number, share) for version, share in zip(versions, shares, strict=True))
    standing = standing.begin(
        first.number, strategy, () if arms else tuple(shares), loop_id=first.loop_id, at_ms=at_ms, arms=arms,
        opened_at_ms=max(version.as_of_ms for version in versions),
        traceparent=telemetry.traceparent() or first.traceparent,
    )  # fmt: skip
    await unit.save(standing)
    rollout_id = standing.rollout.id if standing.rollout else ""
    for version in versions:
        await set_stage(
            unit, standing, version, Stage.ACCEPTED, sentence, actor=actor, at_ms=at_ms, rollout_id=rollout_id
        )
    return standing


async def drop(unit: Unit, standing: Standing, sentence: str, *, actor: str, at_ms: int) -> Standing:
    """End the open rollout, if there is one, without its challengers; the champion stays."""
    trial = standing.trial
    if trial is None:
        return standing
    standing = standing.move(Move.DROP, at_ms)
    await unit.save(standing)
    await let_go(unit, standing, trial.challengers, sentence, actor=actor, at_ms=at_ms)
    return standing


async def leave(
    unit: Unit, standing: Standing, number: int, sentence: str, *, actor: str, at_ms: int
) -> Standing:
    """Take one challenger out of the open rollout, which goes on with the others, or ends with the last one."""
    if standing.challengers == (number,):
        return await drop(unit, standing, sentence, actor=actor, at_ms=at_ms)
    standing = standing.move(Move.LEAVE, at_ms, number)
    await unit.save(standing)
    await let_go(unit, standing, (number,), sentence, actor=actor, at_ms=at_ms)
    return standing


async def let_go(
    unit: Unit, standing: Standing, numbers: Sequence[int], sentence: str, *, actor: str, at_ms: int
) -> None:
    """Record that challengers of the last rollout do not come to serve."""
    rollout_id = standing.rollout.id if standing.rollout else ""
    for number in numbers:
        version = await the_version(unit, standing.model, number)
        await set_stage(
            unit, standing, version, Stage.ROLLED_BACK, sentence, actor=actor, at_ms=at_ms, rollout_id=rollout_id
        )  # fmt: skip


async def promote(
    unit: Unit, standing: Standing, move: Move, sentence: str, *, actor: str, at_ms: int, number: int | None = None
) -> Standing:  # fmt: skip
    """Make the challenger the champion by `move`, or that of several with this `number`; it is live when serving says so."""
    unseen = standing.champion if standing.champion != standing.live else None
    version = await the_version(unit, standing.model, number or standing.challenger or 0)
    standing = await _choose(unit, standing, move, version, "promoted", sentence, actor=actor, at_ms=at_ms)
    if unseen is not None:
        never_live = await the_version(unit, standing.model, unseen)
        why = f"replaced by version {version.number} before serving had swapped to it"
        await set_stage(unit, standing, never_live, Stage.ROLLED_BACK, why, actor=actor, at_ms=at_ms)
    return standing


async def hurry(
    unit: Unit, standing: Standing, version: Version, sentence: str, *, actor: str, at_ms: int
) -> Standing:
    """Have a challenger that is still loading become champion once it is warm."""
    return await _choose(unit, standing, Move.HURRY, version, "hurried", sentence, actor=actor, at_ms=at_ms)


async def _choose(
    unit: Unit, standing: Standing, move: Move, version: Version, action: str, sentence: str, *, actor: str, at_ms: int
) -> Standing:  # fmt: skip
    """Make a move that takes one challenger and lets the others go; what follows of the rollout is told of its loop."""
    others = [number for number in standing.challengers if number != version.number]
    standing = replace(standing.move(move, at_ms, version.number), loop_id=version.loop_id)
    rollout = standing.rollout
    if rollout is not None and rollout.loop_id != version.loop_id:
        rollout = replace(rollout, loop_id=version.loop_id, traceparent=version.traceparent)
        standing = replace(standing, rollout=rollout)
    await unit.save(standing)
    rollout_id = rollout.id if rollout else ""
    await audit(unit, version, action, sentence, actor=actor, at_ms=at_ms, rollout_id=rollout_id)
    why = f"version {version.number} was promoted instead"
    await let_go(unit, standing, others, why, actor=actor, at_ms=at_ms)
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
