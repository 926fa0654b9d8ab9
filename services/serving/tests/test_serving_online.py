"""The online features: what is read, when it is computed anew, and readers beside a writer."""

import threading
from collections.abc import AsyncIterator
from pathlib import Path

import numpy as np
import pytest
from trimtab_contracts import topics
from trimtab_core.slots import FoldState, Layout
from trimtab_runtime.onlineview import OnlineView
from trimtab_runtime.records import Outgoing
from trimtab_serving import testing
from trimtab_serving.testing import Instance, Raw

HOP = 6 * 3_600_000
DAY = 86_400_000
MIDNIGHT = 19_700 * DAY
PROJECT = testing.project()
VIEW = PROJECT.speed
TOPIC = topics.FEATURES.named(VIEW.name).name


def fold(*events: tuple[str, int, float]) -> FoldState:
    state = FoldState(Layout.of(VIEW.spec, PROJECT.dropoffs.spec.lateness))
    entities, times, speeds = zip(*events, strict=True)
    state.fold(entities, np.array(times), np.array(speeds)[:, None])
    return state


def records(state: FoldState, watermark_ms: int = 0, generation: int = 1) -> list[Outgoing]:
    return testing.features(VIEW.name, state, watermark_ms, 2, generation)


def apply(view: OnlineView, found: list[Outgoing]) -> bool:
    moved = False
    for partition in (0, 1):
        raw = [
            Raw(each.topic, partition, 0, each.key, each.value, [])
            for each in found
            if each.partition == partition
        ]
        moved = view.apply(partition, raw) or moved
    return moved


@pytest.fixture
def view() -> OnlineView:
    return OnlineView(VIEW, PROJECT.dropoffs, 1)


@pytest.fixture
async def instance(tmp_path: Path) -> AsyncIterator[Instance]:
    made = Instance(tmp_path)
    await made.hear(*PROJECT.specs)
    yield made
    made.close()


def mean(view: OnlineView, entity: str, at_ms: int) -> float:
    return float(view.values([entity], [at_ms])[0, 1])


def test_what_was_folded_is_what_is_read(view: OnlineView) -> None:
    rng = np.random.default_rng(7)
    events = [
        (str(entity), MIDNIGHT + int(at), float(speed))
        for entity, at, speed in zip(
            rng.integers(0, 20, 500), rng.integers(0, 3 * DAY, 500), rng.normal(20, 5, 500), strict=True
        )
    ]
    state = fold(*events)
    apply(view, records(state))

    entities = [str(entity) for entity in range(22)]
    for at in (MIDNIGHT + DAY, MIDNIGHT + 2 * DAY + 1, MIDNIGHT + 3 * DAY):
        np.testing.assert_array_equal(view.values(entities, [at] * 22), state.values(entities, at))


def test_a_late_slot_changes_what_was_kept(view: OnlineView) -> None:
    apply(view, records(fold(("7", MIDNIGHT, 10.0))))
    assert mean(view, "7", MIDNIGHT + HOP) == 10

    apply(view, records(fold(("7", MIDNIGHT, 10.0), ("7", MIDNIGHT + 1, 30.0))))

    assert mean(view, "7", MIDNIGHT + HOP) == 20


def test_a_value_is_computed_once_until_a_slot_before_it_changes(
    view: OnlineView, monkeypatch: pytest.MonkeyPatch
) -> None:
    computed: list[str] = []
    compute = OnlineView._compute
    monkeypatch.setattr(
        OnlineView,
        "_compute",
        lambda self, entities, at: (computed.extend(entities), compute(self, entities, at))[1],
    )
    apply(view, records(fold(("7", MIDNIGHT, 10.0), ("8", MIDNIGHT, 10.0))))
    for _ in range(3):
        mean(view, "7", MIDNIGHT + HOP)
        mean(view, "8", MIDNIGHT + HOP + 5)
    assert computed == ["7", "8"]

    apply(view, records(fold(("7", MIDNIGHT + HOP, 99.0), ("8", MIDNIGHT + 1, 50.0))))
    mean(view, "7", MIDNIGHT + HOP)
    mean(view, "8", MIDNIGHT + HOP)

    assert computed == ["7", "8", "8"]


def test_a_tombstone_forgets_an_entity(view: OnlineView) -> None:
    found = records(fold(("7", MIDNIGHT, 10.0)))
    apply(view, found)
    assert mean(view, "7", MIDNIGHT + HOP) == 10

    apply(view, [testing.with_value(found[0], None)])

    assert np.isnan(mean(view, "7", MIDNIGHT + HOP))


def test_the_watermark_is_that_of_the_slowest_partition(view: OnlineView) -> None:
    ahead, behind = (
        records(fold(("7", MIDNIGHT, 1.0)), MIDNIGHT + HOP),
        records(fold(("7", MIDNIGHT, 1.0)), MIDNIGHT),
    )

    assert not apply(view, [each for each in ahead if each.partition == 0])
    assert view.until_ms is None
    assert apply(view, [each for each in behind if each.partition == 1])
    assert view.until_ms == MIDNIGHT
    assert apply(view, [each for each in ahead if each.partition == 1])
    assert view.until_ms == MIDNIGHT + HOP


def test_rubbish_on_the_topic_hides_nothing_that_comes_with_it(view: OnlineView) -> None:
    good = records(fold(("7", MIDNIGHT, 10.0)))
    rubbish = [
        Outgoing(TOPIC, b"no key", b"", [], good[0].partition),
        Outgoing(TOPIC, good[0].key, b"\xff\xff", [], good[0].partition),
    ]

    apply(view, [*rubbish, *good, *rubbish])

    assert mean(view, "7", MIDNIGHT + HOP) == 10


async def test_a_restart_has_the_features_and_how_far_they_had_come(instance: Instance) -> None:
    await instance.hear(*records(fold(("7", MIDNIGHT, 10.0)), MIDNIGHT + DAY))
    assert instance.watermarks[-1] == (VIEW.name, MIDNIGHT + DAY)

    await instance.restart()

    assert mean(instance.views.all[VIEW.name], "7", MIDNIGHT + HOP) == 10
    assert instance.views.reached() == {VIEW.name: MIDNIGHT + DAY}


async def test_features_that_came_before_their_view_are_not_lost(tmp_path: Path) -> None:
    made = Instance(tmp_path)
    await made.hear(*records(fold(("7", MIDNIGHT, 10.0)), MIDNIGHT + DAY))

    await made.hear(*PROJECT.specs)

    assert mean(made.views.all[VIEW.name], "7", MIDNIGHT + HOP) == 10
    made.close()


async def test_a_changed_view_answers_once_all_of_its_partitions_have_begun_and_the_one_before_until_then(
    instance: Instance,
) -> None:
    def says() -> float:
        return mean(instance.views.all[VIEW.name], "7", MIDNIGHT + HOP)

    changed = records(fold(("7", MIDNIGHT, 70.0)), MIDNIGHT + DAY, generation=2)
    begun = [each for each in changed if each.partition == 0]
    await instance.hear(*records(fold(("7", MIDNIGHT, 10.0)), MIDNIGHT))
    await instance.hear(testing.spec(VIEW, generation=2))
    assert says() == 10

    await instance.hear(*begun)
    await instance.hear(*records(fold(("7", MIDNIGHT, 20.0)), MIDNIGHT))  # of the one before
    assert says() == 20
    before = instance.views.all

    await instance.hear(*[each for each in changed if each.partition == 1])
    assert says() == 70
    assert instance.views.all is not before
    assert instance.watermarks[-1] == (VIEW.name, MIDNIGHT + DAY)

    await instance.restart()
    assert says() == 70


async def test_a_changed_view_that_is_here_already_answers_at_once(instance: Instance) -> None:
    await instance.hear(
        *records(fold(("7", MIDNIGHT, 10.0)), MIDNIGHT),
        *records(fold(("7", MIDNIGHT, 70.0)), MIDNIGHT, generation=2),
    )
    assert mean(instance.views.all[VIEW.name], "7", MIDNIGHT + HOP) == 10

    await instance.hear(testing.spec(VIEW, generation=2))

    assert mean(instance.views.all[VIEW.name], "7", MIDNIGHT + HOP) == 70


def test_readers_beside_a_writer_see_whole_slots_and_in_the_end_the_last(view: OnlineView) -> None:
    """Each state of the slot has count == mean, so a value made of two states shows."""
    states = [records(fold(*[("7", MIDNIGHT, float(size))] * size)) for size in (1, 2, 3, 4)]
    apply(view, states[0])
    torn: list[np.ndarray] = []
    done = threading.Event()

    def read() -> None:
        while not done.is_set():
            value = view.values(["7"], [MIDNIGHT + HOP])[0]
            if value[0] != value[1]:
                torn.append(value)

    readers = [threading.Thread(target=read) for _ in range(3)]
    for reader in readers:
        reader.start()
    for number in range(2000):
        apply(view, states[number % 4])
        if number % 100 == 0:
            assert view.values(["7"], [MIDNIGHT + HOP])[0, 0] == number % 4 + 1
    done.set()
    for reader in readers:
        reader.join()
    assert not torn
    assert view.values(["7"], [MIDNIGHT + HOP])[0].tolist() == [4, 4]
