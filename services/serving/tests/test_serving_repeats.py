import json
from collections.abc import AsyncIterator
from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np
import pytest
from trimtab_contracts.registry.v1.registry_pb2 import Rollout
from trimtab_core.slots import FoldState, Layout
from trimtab_runtime.clock import iso
from trimtab_serving import testing
from trimtab_serving.repeats import MOST_ROWS, Answers, Floats, Remembering, remembering
from trimtab_serving.testing import Instance
from trimtab_serving.versions import Version

DAY = 86_400_000
MIDNIGHT = 19_700 * DAY
PROJECT = testing.project(serving={"cache": "60s"})
MODEL = PROJECT.model.name


@dataclass(frozen=True, slots=True, eq=False)
class Counted(Version):
    """Notes how many rows it is asked about."""

    runs: list[int]

    def run(self, features: Floats, texts: np.ndarray | None = None) -> Floats:
        self.runs.append(len(features))
        return Version.run(self, features, texts)


@pytest.fixture
async def instance(tmp_path: Path) -> AsyncIterator[Instance]:
    """Version 1 is live and version 2 answers half of the keys; both remember."""
    made = Instance(tmp_path / "state")
    first, second = (
        testing.version(tmp_path, number, PROJECT.features, testing.linear_model([1, 0, 10], bias=number))
        for number in (1, 2)
    )
    rollout = Rollout(id="r", strategy="canary", share=50)
    await made.hear(*PROJECT.specs, testing.deployment(MODEL, 1, first, challenger=second, rollout=rollout))
    yield made
    made.close()


def counted(instance: Instance) -> Counted:
    plain = instance.board.current.of(MODEL).champion
    assert isinstance(plain, Remembering)
    same = {field.name: getattr(plain.asks, field.name) for field in fields(Version)}
    return Counted(**same, runs=[])


def row(trip: str, distance: float = 2.0) -> bytes:
    at = iso(MIDNIGHT + 6 * 3_600_000)
    return json.dumps({"trip": trip, "at": at, "zone": 7, "distance": distance}).encode()


async def test_the_same_features_are_answered_from_memory_and_others_are_not(instance: Instance) -> None:
    asked = counted(instance)
    version = remembering(asked, 60_000, (), Answers())
    one, other = np.array([[1, 2, np.nan]], np.float32), np.array([[1, 2, 3]], np.float32)

    answers = [version.run(each).tolist() for each in (one, one.copy(), other, one, one.repeat(2, axis=0))]

    assert answers == [[2], [2], [32], [2], [2, 2]]
    assert asked.runs == [1, 1, 2]


async def test_an_answer_that_is_too_old_is_asked_for_again(instance: Instance) -> None:
    asked = counted(instance)
    version = remembering(asked, 0, (), Answers())

    for _ in range(2):
        version.run(np.zeros((1, 3), np.float32))

    assert asked.runs == [1, 1]


async def test_large_requests_are_not_kept(instance: Instance) -> None:
    answers = Answers()
    version = remembering(counted(instance), 60_000, (), answers)

    version.run(np.zeros((MOST_ROWS + 1, 3), np.float32))

    assert answers.bytes == 0


def test_memory_is_bounded_and_what_was_asked_longest_ago_goes_first() -> None:
    answers = Answers(most_bytes=5000)
    for number in range(8):
        answers.put(number, np.zeros(1, np.float32), 100, 60_000)
        assert answers.get(0) is not None

    for number in range(8, 50):
        answers.get(0)
        answers.put(number, np.zeros(1, np.float32), 100, 60_000)
        answers.put(number, np.zeros(1, np.float32), 100, 60_000)

    assert answers.bytes <= 5000
    assert answers.get(0) is not None
    assert answers.get(49) is not None
    assert answers.get(9) is None


async def test_what_is_answered_from_memory_is_logged_and_keeps_to_its_arm(instance: Instance) -> None:
    trips = [f"t{number}" for number in range(40)]

    said = [instance.predictions.predict(MODEL, [row(trip)]) for trip in trips + trips]

    for answer in said:
        assert answer.predictions.tolist() == [2 + answer.versions[0]]
        assert answer.arms == ["champion" if answer.versions[0] == 1 else "challenger"]
    assert {answer.versions[0] for answer in said} == {1, 2}
    logged = [answered.ids[at] for batch in instance.log.drain([]) for answered, at in batch.rows]
    assert sorted(logged) == sorted(answer.ids[0] for answer in said)


async def test_a_feature_that_has_moved_is_another_question(instance: Instance) -> None:
    before = instance.predictions.predict(MODEL, [row("t")], version=1).predictions.tolist()
    fold = FoldState(Layout.of(PROJECT.speed.spec, PROJECT.dropoffs.spec.lateness))
    fold.fold(["7"], np.array([MIDNIGHT]), np.array([[20.0]]))
    await instance.hear(*testing.features(PROJECT.speed.name, fold, MIDNIGHT + DAY, 2))

    after = instance.predictions.predict(MODEL, [row("t")], version=1).predictions.tolist()

    assert (before, after) == ([3], [203])


async def test_a_change_of_something_else_forgets_nothing_and_without_the_wish_nothing_stands_between(
    instance: Instance, tmp_path: Path
) -> None:
    before = instance.board.current.of(MODEL)
    await instance.hear(testing.spec(testing.project("-other").model))
    assert instance.board.current.of(MODEL).champion is before.champion

    await instance.hear(testing.spec(testing.project().model, generation=2))
    plain = instance.board.current.of(MODEL)

    assert isinstance(before.champion, Remembering)
    assert plain.champion is before.champion.asks
    assert {type(version) for version in (plain.champion, *plain.challengers, *plain.warm.values())} == {
        Version
    }
