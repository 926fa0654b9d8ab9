"""Whose work a model is, when there are several monitors."""

import asyncio
from collections.abc import Callable
from typing import Any

import pytest
from trimtab_monitoring.usecases import owning
from trimtab_monitoring.usecases.entities import Arrivals
from trimtab_monitoring.usecases.owning import Moves, Shards, shard_of
from trimtab_runtime.errors import Unavailable
from trimtab_runtime.testing import eventually

Make = Callable[..., Any]
NAMES = [f"m{number}" for number in range(1_000)]


def test_a_models_shard_is_the_same_everywhere_and_all_shards_have_about_as_many() -> None:
    assert [shard_of(name, 4) for name in ("fares", "m", "Zürich")] == [0, 0, 2]
    counts = [sum(shard_of(name, 4) == shard for name in NAMES) for shard in range(4)]
    assert min(counts) > 200
    assert sum(counts) == 1_000


def test_instances_that_share_the_partitions_share_the_models_and_one_that_is_alone_has_all() -> None:
    one, two = Shards(), Shards()
    assert [name for name in NAMES if one.owns(name)] == []
    assert one.hold(range(4), 4, NAMES) == NAMES
    assert not one.shared

    assert one.hold([0, 3], 4, NAMES) == []
    theirs = two.hold([1, 2], 4, NAMES)
    assert [name for name in NAMES if not one.owns(name)] == theirs != []
    assert one.shared
    assert two.shared

    assert one.hold([0, 1, 2, 3], 4, NAMES) == theirs
    assert one.hold([0], 1, NAMES) == []
    assert not one.shared, "of a topic that has one partition"
    assert not Shards().shared


class Instance:
    """A monitor's eyes on the world's store, and what it has woken."""

    def __init__(self, world: Any, *shards: int) -> None:
        self.woken: list[str] = []
        self.shards = Shards()
        self.shards.hold(shards, 2, [])
        self.moves = Moves(world.store, world.specs, self.shards, world.clock, self.woken.append)


async def test_a_model_whose_marks_another_instance_stores_is_left_alone_by_that_and_closed_by_its_owner(
    world: Any, flow: Make
) -> None:
    await world.ready()
    ours = shard_of("m", 2)
    owner, other = Instance(world, ours), Instance(world, 1 - ours)
    part = flow(0, 120)
    await world.store.take(Arrivals([part.predicted()], [part.labelled()]))
    await world.mark(part.times[-1])

    other.moves.moved(["predictions/m", "events/truths"])
    await other.moves.look()
    await owner.moves.look()
    await owner.moves.look()
    assert (other.woken, owner.woken) == ([], ["m"])

    await world.close()
    assert (await world.store.watch("m")).closed_ms == part.times[-1]
    await world.mark(part.times[-1] + 1)
    await owner.moves.look()
    assert owner.woken == ["m", "m"]
    assert other.shards.hold([0, 1], 2, world.specs.models) == ["m"]


async def test_marks_that_a_look_could_not_see_are_seen_by_a_later_one_however_long_postgresql_was_away(
    world: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(owning, "LOOK_S", 0.0)
    owner, away = Instance(world, shard_of("m", 2)), [True]
    look = world.memory.moves

    async def moves(*, since_ms: int) -> Any:
        if away:
            away.pop()
            world.clock.advance(3_600_000)
            raise Unavailable("PostgreSQL is away")
        return await look(since_ms=since_ms)

    await owner.moves.look()
    monkeypatch.setattr(world.memory, "moves", moves)
    world.memory.now_ms = world.clock.now_ms()
    await world.mark(1)

    async def woken() -> bool:
        return owner.woken == ["m"]

    async with asyncio.TaskGroup() as tasks:
        task = tasks.create_task(owner.moves.work())
        await eventually(woken, what="the model woken")
        task.cancel()


async def test_who_becomes_alone_looks_once_more_for_what_others_stored_before_they_left(
    world: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(owning, "LOOK_S", 0.0)
    owner, looks, look = Instance(world, shard_of("m", 2)), list[bool](), world.memory.moves

    async def moves(*, since_ms: int) -> Any:
        looks.append(owner.shards.shared)
        return await look(since_ms=since_ms)

    monkeypatch.setattr(world.memory, "moves", moves)

    async def looked() -> bool:
        return bool(looks)

    async def woken() -> bool:
        return owner.woken == ["m"]

    async with asyncio.TaskGroup() as tasks:
        task = tasks.create_task(owner.moves.work())
        await eventually(looked, what="a look")
        await world.mark(1)
        assert owner.shards.hold([0, 1], 2, ["m"]) == []
        await eventually(woken, what="the model woken")
        task.cancel()
    assert looks.count(False) <= 1


async def test_who_is_alone_asks_nothing_and_wakes_what_it_hears_of(
    world: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    alone = Instance(world, 0, 1)
    monkeypatch.setattr(world.memory, "moves", None)
    world.specs.models["n"] = world.specs.models["m"].model_copy(
        update={"metadata": world.specs.models["m"].metadata.model_copy(update={"name": "n"})}
    )

    alone.moves.moved({"events/truths"})
    alone.moves.moved({"predictions/n", "predictions/nobody"})
    assert alone.woken == ["m", "n", "n"]
    del world.specs.models["n"]
    alone.moves.specs_changed()
    alone.moves.moved({"predictions/n"})
    assert alone.woken == ["m", "n", "n"]
