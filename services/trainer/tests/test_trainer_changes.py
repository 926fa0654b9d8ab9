"""A change of what a model is made of orders one run; what else changes orders none."""

from types import SimpleNamespace
from typing import Any

import pytest
from trimtab_core import recipes
from trimtab_core.specs import Model, parse
from trimtab_runtime.errors import Unavailable
from trimtab_runtime.specbook import SpecBook
from trimtab_trainer.changes import Changes
from trimtab_trainer.testing import MemoryStore
from trimtab_trainer.usecases.entities import Champion, Job, News, Status, StoredFile
from trimtab_trainer.usecases.jobs import run_of


def a_model(trainer: dict[str, Any] | None = None, **changes: Any) -> Model:
    spec = {
        "task": "binary",
        "source": "trips",
        "features": ["request.x"],
        "label": {"source": "trips", "on": "id", "value": "y", "within": "1h"},
        "trainer": {"window": "30d", **(trainer or {})},
        **changes,
    }
    model = parse("Model", {"metadata": {"name": "m"}, "spec": spec})
    assert isinstance(model, Model)
    return model


class World:
    """A trainer's view of one model, and what it orders."""

    def __init__(self) -> None:
        self.book, self.store = SpecBook(), MemoryStore()
        self.live: Champion | None = None
        self.ordered: list[dict[str, Any]] = []
        self.fault: Exception | None = None
        self.changes = self.restarted()

    def restarted(self) -> Changes:
        champions: Any = SimpleNamespace(champion=lambda _: self.live)
        self.changes = Changes(self.store, self.book, champions, SimpleNamespace(place=self._place))  # type: ignore[arg-type]
        return self.changes

    def goes_live(self, number: int, model: Model | None) -> None:
        recipe = recipes.recipe(model.spec) if model else ""
        self.live = Champion(number, StoredFile("", "", 0), ("x",), recipe=recipe)

    async def _place(self, model: str, **order: Any) -> str:
        if self.fault:
            raise self.fault
        self.ordered.append(order)
        job = Job(run_of(order["id"]), order["id"], model, order["id"], order["trigger"], 0, None, 0)
        await self.store.add(News(job, Status.QUEUED, 0))
        return str(order["id"])


@pytest.fixture
def world() -> World:
    """Version 1 is live, of the spec that is applied."""
    world = World()
    world.book.put(a_model(), 1)
    world.goes_live(1, a_model())
    return world


@pytest.mark.parametrize(
    ("change", "trigger", "said"),
    [
        (a_model({"kind": "linear"}), "trainer", "its trainer has changed"),
        (a_model(features=["request.x", "request.z"]), "spec", "what it is fitted to .* has changed"),
    ],
)
async def test_a_change_is_ordered_once_however_often_it_is_looked_at(
    world: World, change: Model, trigger: str, said: str
) -> None:
    world.book.put(change, 2)
    for _ in range(2):
        await world.changes.look()
        await world.restarted().look()

    [order] = world.ordered
    assert order["trigger"] == trigger
    assert order["reason"].startswith("Since version 1 of m was trained, ")
    assert said.partition(" .*")[0] in order["reason"]


async def test_what_is_no_part_of_a_model_orders_nothing(world: World) -> None:
    world.book.put(a_model(gates=[{"metric": "log_loss", "at_most": 1}]), 2)
    await world.changes.look()

    assert world.ordered == []


async def test_a_refused_change_is_not_tried_again_for_the_same_version_and_is_for_the_next(
    world: World,
) -> None:
    world.book.put(a_model({"seed": 1}), 2)
    await world.changes.look()
    world.book.put(a_model({"seed": 1}, gates=[{"metric": "log_loss", "at_most": 1}]), 3)
    await world.changes.look()
    assert len(world.ordered) == 1

    world.goes_live(2, a_model({"seed": 7}))
    await world.changes.look()
    assert len(world.ordered) == 2


async def test_two_changes_are_two_and_going_back_is_none(world: World) -> None:
    for generation, seed in ((2, 1), (3, 2), (4, 0)):
        world.book.put(a_model({"seed": seed}), generation)
        await world.changes.look()

    assert len({order["id"] for order in world.ordered}) == 2


async def test_nothing_is_ordered_where_the_spec_says_so_nor_before_a_version_is_live(world: World) -> None:
    world.book.put(a_model({"seed": 1}, retrain={"on_change": False}), 2)
    await world.changes.look()
    world.book.put(a_model({"seed": 2}), 3)
    world.live = None
    await world.changes.look()

    assert world.ordered == []


async def test_a_version_that_is_older_than_recipes_is_left_alone(world: World) -> None:
    world.goes_live(1, None)
    world.book.put(a_model({"seed": 1}), 2)
    await world.changes.look()

    assert world.ordered == []


async def test_what_is_away_is_asked_again(world: World) -> None:
    world.book.put(a_model({"seed": 1}), 2)
    world.fault = Unavailable("the feature store is away")
    with pytest.raises(Unavailable):
        await world.changes.look()
    world.fault = None
    await world.changes.look()

    assert len(world.ordered) == 1
