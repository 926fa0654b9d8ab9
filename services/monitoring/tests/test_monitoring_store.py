"""One suite for both homes of monitoring: what storing, joining and deciding promise."""

import uuid
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from typing import Any

import asyncpg
import msgspec
import numpy as np
import pytest
from trimtab_core import fairwatch
from trimtab_core.baseline import Uncalibrated
from trimtab_core.concept import ChangeState
from trimtab_core.episodes import EpisodeState
from trimtab_core.fairness import Fairness
from trimtab_core.judge import JudgeSpec
from trimtab_core.policy import Answer, Futile, PolicyState
from trimtab_core.quality import as_texts
from trimtab_core.watched import (
    Accept,
    Acceptance,
    Bet,
    Breach,
    Published,
    Reading,
    Row,
    Series,
    Trial,
    Watch,
)
from trimtab_monitoring.alertstore import PostgresAlerts
from trimtab_monitoring.errors import BadBatch
from trimtab_monitoring.store import PostgresStore
from trimtab_monitoring.testing import MemoryStore
from trimtab_monitoring.usecases.entities import (
    Alert,
    Arrivals,
    Closed,
    Labelled,
    LabelStream,
    Loop,
    Mark,
    Predicted,
    ReportOrder,
    StoredFile,
    Version,
    WantedLabel,
)
from trimtab_monitoring.usecases.ports import Store
from trimtab_monitoring.usecases.together import NotTogether, ToClose
from trimtab_runtime.postgres import open_pool

LABELS = LabelStream("truths", "id", "y", within_ms=100)
Make = Callable[..., Any]


@pytest.fixture(params=["memory", pytest.param("postgres", marks=pytest.mark.real)])
async def store(request: pytest.FixtureRequest) -> AsyncIterator[Store]:
    if request.param == "memory":
        yield MemoryStore()
        return
    dsn, schema = request.getfixturevalue("postgres_dsn"), f"monitoring_{uuid.uuid4().hex[:8]}"
    async with open_pool(dsn, schema, package="trimtab_monitoring") as pool:
        yield PostgresStore(pool)
        async with pool.acquire() as connection:
            await connection.execute(f'DROP SCHEMA "{schema}" CASCADE')


def predicted(
    *rows: tuple[str, int], version: int = 1, names: tuple[str, ...] = ("a",), key: str = ""
) -> Predicted:
    return Predicted(
        model="m",
        version=version,
        challenger_version=0,
        rollout_id="",
        generation=1,
        feature_names=names,
        ids=[name for name, _ in rows],
        keys=[f"key-{key or name}" for name, _ in rows],
        event_time_ms=[at for _, at in rows],
        champion=[float(at) for _, at in rows],
        challenger=None,
        features=[b"\0" * 8 * len(names) for _ in rows],
    )


def labelled(*rows: tuple[str, int, float]) -> Labelled:
    return Labelled(
        LABELS.name, [f"key-{name}" for name, *_ in rows], [at for _, at, _ in rows], [it for *_, it in rows]
    )


async def test_requests_in_which_versions_were_timed_come_in_order_and_go_on_where_they_ended(
    store: Store,
) -> None:
    on_trial = replace(
        predicted(("c", 20), ("b", 10), ("a", 20), ("d", 30)),
        challenger_version=2, rollout_id="r", challenger=[1.0, float("nan"), 3.0, 4.0],
        champion_us=[5, 6, 0, 8], challenger_us=[15, 16, 0, 0], others=[b"[2,[]]"] * 4,
    )  # fmt: skip
    await store.take(Arrivals([on_trial, predicted(("e", 12))]))

    async with store.begin("m") as unit:
        first = await unit.asked("r", from_ms=0, after_id="", until_ms=29, at_most=1)
        rest = await unit.asked("r", from_ms=10, after_id="b", until_ms=30, at_most=9)
        none = await unit.asked("other", from_ms=0, after_id="", until_ms=99, at_most=9)

    assert [(it.id, it.champion_us, it.challenger_us) for it in first] == [("b", 6, 16)]
    assert np.isnan(first[0].challenger)
    assert [(it.at_ms, it.id, it.challenger_version, it.challenger_us, it.others) for it in rest] == [
        (20, "c", 2, 15, b"[2,[]]"), (30, "d", 2, None, b"[2,[]]"),
    ]  # fmt: skip
    assert none == []


async def test_the_loop_of_a_version_is_the_newest_that_gave_it(store: Store) -> None:
    async with store.begin("m") as unit:
        for name, version in (("a", 2), ("b", 3), ("c", 2)):
            await unit.put_loop(Loop(name, "m", version=version))
    async with store.begin("other") as unit:
        assert await unit.loop_of(2) is None
    async with store.begin("m") as unit:
        found, none = await unit.loop_of(2), await unit.loop_of(9)

    assert (found and found.id, none) == ("c", None)


async def rows_of(
    store: Store, *, after_ms: int = 0, until_ms: int = 1_000, at_most: int | None = None
) -> Any:
    async with store.begin("m") as unit:
        return await unit.rows(LABELS, after_ms=after_ms, until_ms=until_ms, at_most=at_most)


def labels_of(found: tuple[list[Row], int]) -> list[tuple[str, float | None]]:
    return [(row.id, row.label) for row in found[0]]


async def test_a_label_finds_its_prediction_in_whatever_order_they_come(store: Store) -> None:
    await store.take(Arrivals(labelled=[labelled(("b", 25, 2.0))]))
    await store.take(Arrivals([predicted(("b", 20), ("a", 10), ("c", 10))]))
    await store.take(Arrivals(labelled=[labelled(("a", 15, 1.0))]))

    assert labels_of(await rows_of(store)) == [("a", 1.0), ("c", None), ("b", 2.0)]


async def test_what_comes_again_changes_nothing(store: Store) -> None:
    first = Arrivals([predicted(("a", 10))], [labelled(("a", 15, 1.0))], [Mark("s", "i", 0, 1, 50)])
    await store.take(first)
    before = await rows_of(store)

    await store.take(first)
    await store.take(Arrivals([predicted(("a", 11))], [labelled(("a", 16, 9.0))], [Mark("s", "i", 0, 1, 40)]))

    assert await rows_of(store) == before


async def test_a_label_after_the_stated_delay_is_no_label(store: Store) -> None:
    await store.take(
        Arrivals([predicted(("in", 10), ("out", 10))], [labelled(("in", 110, 1.0), ("out", 111, 1.0))])
    )

    assert labels_of(await rows_of(store)) == [("in", 1.0), ("out", None)]


async def test_a_label_after_the_stated_delay_counts_where_it_is_asked_for_and_its_key_has_no_other(
    store: Store,
) -> None:
    labels = [
        ("late", 150, 1.0),
        ("out", 161, 1.0),
        ("again", 150, 1.0),
        ("again", 300, 2.0),
        ("in", 20, 3.0),
    ]
    await store.take(Arrivals([predicted(*[(name, 10) for name in ("late", "out", "again", "in", "none")])]))
    await store.take(Arrivals(labelled=[labelled(each) for each in labels]))

    async with store.begin("m") as unit:
        found = await unit.rows(replace(LABELS, late_ms=50), after_ms=0, until_ms=1_000)

    assert labels_of(found) == [("again", None), ("in", 3.0), ("late", 1.0), ("none", None), ("out", None)]


async def test_windows_that_were_told_are_left_open_until_they_are_settled(store: Store) -> None:
    reading = Reading("performance", "m", 1, "mae", 2.0, 0, 10, 1, arm="champion", slice="7", revision=2)
    early, late = (Published("data", 1, (at, ""), (at + 9, "z"), "mae", (reading,)) for at in (20, 10))
    async with store.begin("m") as unit:
        await unit.leave_open(late, next_ms=60)
        await unit.leave_open(early, next_ms=50)
    async with store.begin("other") as unit:
        await unit.leave_open(early, next_ms=1)

    async with store.begin("m") as unit:
        assert await unit.left_open(before_ms=49, at_most=9) == []
        assert [held for _, held in await unit.left_open(before_ms=60, at_most=9)] == [early, late]
        ((number, _),) = await unit.left_open(before_ms=60, at_most=1)
        await unit.leave_open(replace(early, looks=1), next_ms=70, number=number)
        ((other, held),) = await unit.left_open(before_ms=60, at_most=9)
        assert held == late
        assert await store.published_from("other") == 20
        await unit.settle(other)
    async with store.begin("m") as unit:
        assert await unit.left_open(before_ms=70, at_most=9) == [(number, replace(early, looks=1))]
    assert await store.published_from("m") == 20
    assert await store.published_from("nobody") is None


async def test_of_a_key_that_comes_again_a_prediction_has_the_first_label_that_follows_it(
    store: Store,
) -> None:
    trips = [("bus", 10, 1.0), ("bus", 40, 2.0), ("bus", 30, 3.0)]
    await store.take(Arrivals(labelled=[labelled(trip) for trip in trips]))
    await store.take(Arrivals([predicted(*[(f"ask-{at}", at) for at in (5, 11, 31, 41)], key="bus")]))

    assert labels_of(await rows_of(store)) == [
        ("ask-5", 1.0),
        ("ask-11", 3.0),
        ("ask-31", 2.0),
        ("ask-41", None),
    ]


async def test_rows_come_in_order_and_an_instant_is_never_cut(store: Store) -> None:
    await store.take(Arrivals([predicted(("d", 30), ("c", 20), ("b", 20), ("a", 10))]))

    some, reached = await rows_of(store, at_most=2)
    rest = await rows_of(store, after_ms=reached, at_most=2)
    crowd = await rows_of(store, after_ms=10, at_most=1)

    assert ([row.id for row in some], reached) == (["a"], 19)
    assert [row.id for row in rest[0]] == ["b", "c"]
    assert ([row.id for row in crowd[0]], crowd[1]) == (["b", "c"], 20)


async def test_a_model_reaches_what_every_partition_has_reached(store: Store) -> None:
    async def reach() -> tuple[int, int] | None:
        found = await store.reach({"m": "truths", "other": "truths"}, silent_ms=3_600_000, now_ms=0)
        assert "other" not in found
        return found.get("m")

    await store.take(
        Arrivals(marks=[Mark("predictions/m", "s1", 0, 2, 50), Mark("events/truths", "", 0, 1, 70)])
    )
    assert await reach() is None

    await store.take(Arrivals(marks=[Mark("predictions/m", "s1", 1, 2, 40)]))
    assert await reach() == (40, 70)

    await store.take(
        Arrivals(marks=[Mark("predictions/m", "s1", 1, 2, 30), Mark("predictions/m", "s2", 0, 2, 90)])
    )
    assert await reach() is None

    await store.take(Arrivals(marks=[Mark("predictions/m", "s2", 1, 2, 45)]))
    assert await reach() == (40, 70)


async def test_who_has_been_silent_for_long_holds_nothing_back_unless_all_are(store: Store) -> None:
    soon = 4_000_000_000_000
    await store.take(
        Arrivals(marks=[Mark("predictions/m", "s1", 0, 1, 50), Mark("events/truths", "", 0, 1, 70)])
    )

    assert await store.reach({"m": "truths"}, silent_ms=1_000, now_ms=soon) == {"m": (50, 70)}


async def test_streams_whose_marks_have_moved_say_another_number_and_those_unheard_of_say_none(
    store: Store,
) -> None:
    def marks(first_ms: int, second_ms: int) -> Arrivals:
        return Arrivals(
            marks=[Mark("events/a", "", 0, 2, first_ms), Mark("events/a", "", 1, 2, second_ms), Mark("events/b", "", 0, 1, 7)]
        )  # fmt: skip

    await store.take(marks(50, 60))
    before = await store.moves(since_ms=-1)
    await store.take(marks(50, 61))
    after = await store.moves(since_ms=-1)
    await store.take(marks(40, 61))

    assert before["events/a"] < after["events/a"]
    assert before["events/b"] == after["events/b"]
    assert await store.moves(since_ms=-1) == after
    assert await store.moves(since_ms=4_000_000_000_000) == {}


def several(*names: str, rows: int = 1) -> Arrivals:
    """Return predictions of several models, with their labels."""
    ids = [(f"{at:03}", at) for at in range(rows)]
    made = [replace(predicted(*((row, 10 + at) for row, at in ids)), model=name) for name in names]
    return Arrivals(made, [labelled(*((row, 20 + at, 7.0) for row, at in ids))])


async def test_models_that_are_closed_together_have_what_each_would_have_by_itself(store: Store) -> None:
    await store.take(several("a", "b", "c", rows=2))
    async with store.begin("a") as unit:
        await unit.save_watch(Watch(closed_ms=10))
    reading = Reading("performance", "a", 1, "mae", 1.0, 10, 11, 1)
    asked = [
        ToClose("a", LABELS, 1_000, 1_000),
        ToClose("b", replace(LABELS, within_ms=5), 10, 10),
        ToClose("new", LABELS, 50, 50),
    ]

    async with store.begin_all(asked) as units:
        found = {
            name: await unit.rows(each.labels, after_ms=unit.watch.closed_ms, until_ms=each.until_ms)
            for (name, unit), each in zip(units.items(), asked, strict=True)
        }
        await units["a"].save_watch(replace(units["a"].watch, closed_ms=1_000, predictions=1))
        await units["a"].keep_readings("performance", [reading])
        await units["a"].tell([reading, Closed("a", 1_000)])
        await units["new"].save_watch(Watch(closed_ms=50))
        await units["b"].save_watch(Watch(closed_ms=10))
        units["b"].give_up()

    assert {name: labels_of(each) for name, each in found.items()} == {
        "a": [("001", 7.0)],
        "b": [("000", None)],
        "new": [],
    }
    assert [(await store.watch(name)).closed_ms for name in ("a", "b", "new")] == [1_000, 0, 50]
    assert (await store.health("a")).readings == [reading]


async def test_what_is_rare_or_much_is_not_for_many_together(store: Store) -> None:
    await store.take(several("a", "b", rows=201))
    asked = [ToClose("a", LABELS, 1_000, 1_000), ToClose("b", LABELS, 10, 10)]

    async with store.begin_all(asked) as units:
        with pytest.raises(NotTogether):
            await units["a"].rows(LABELS, after_ms=0, until_ms=1_000)
        with pytest.raises(NotTogether):
            await units["b"].rows(LABELS, after_ms=5, until_ms=10)
        with pytest.raises(NotTogether):
            await units["b"].put_loop(Loop("l", "b"))
        assert len((await units["b"].rows(LABELS, after_ms=0, until_ms=10))[0]) == 1


async def test_many_that_fail_together_leave_nothing_behind(store: Store) -> None:
    async def fail() -> None:
        async with store.begin_all([ToClose("a", LABELS, 9, 9), ToClose("b", LABELS, 9, 9)]) as units:
            await units["a"].save_watch(Watch(closed_ms=9))
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await fail()

    assert await store.watch("a") == Watch()


async def test_a_unit_that_fails_leaves_nothing_behind(store: Store) -> None:
    async def fail() -> None:
        async with store.begin("m") as unit:
            await unit.save_watch(Watch(closed_ms=9))
            await unit.put_loop(Loop("l", "m"))
            await unit.first_sight("x")
            await unit.tell([Closed("m", 9)])
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await fail()

    assert await store.watch("m") == Watch()
    assert await store.loops("", open_only=False) == []
    async with store.begin("m") as unit:
        assert await unit.first_sight("x")
        assert not await unit.first_sight("x")


async def test_what_is_remembered_is_read_back_equal(store: Store) -> None:
    trial = Trial("r", 3, 2, 10, JudgeSpec(cap=5.0, steps=(0,)), decided_ms=20, said_at_step=0)
    change = ChangeState((0.5, 0.0, 1.25), (3, 1, 4), (7.5, 9.0, 7.0))
    states = {
        "data": EpisodeState("2", (True, False), None, None),
        "concept": EpisodeState("2", change=change),
    }
    watch = Watch(
        closed_ms=9, version=2, generation=3, settings="s", data=Series(1, 5, "p"), performance=Series(),
        concept=Series(4, 6, "q"), episodes=states, trial=trial, predictions=7, labels=6,
        breaches={"mae above 6": Breach(2, "critical", told=True)},
        acceptance=Acceptance(Accept("mae", 1.5, 9.0, 0.01), 2, 3, 7, bets=(Bet(0.5, 0.25, 8, 3, 1.5),), episode="e"),
    )  # fmt: skip
    policy = PolicyState(
        1.0, (1.0, 2.5), "c", 3.0, (Answer("e", 1, "c", False),), futile={"data": Futile(2, 0.5)}
    )

    async with store.begin("m") as unit:
        await unit.save_watch(watch)
        await unit.save_policy(policy)

    async with store.begin("m") as unit:
        assert (unit.watch, unit.policy) == (watch, policy)
    assert await store.watch("m") == watch


async def test_the_group_of_a_prediction_is_what_the_event_of_its_very_time_and_key_says(
    store: Store,
) -> None:
    groups = LabelStream("asks", "id", "g", 0, ("g",))
    said = Labelled(groups.name, ["key-a", "key-a", "key-b"], [1, 5, 2], [np.nan] * 3, ["old", "f", "m"])
    await store.take(Arrivals([predicted(("a", 5), ("b", 2), ("c", 3))], [said]))

    async with store.begin("m") as unit:
        assert await unit.groups(groups, after_ms=0, until_ms=9) == {"a": "f", "b": "m"}
        assert await unit.groups(groups, after_ms=2, until_ms=9) == {"a": "f"}


async def test_what_stands_about_a_subject_is_known_within_a_unit(store: Store) -> None:
    alerts = store.alerts if isinstance(store, MemoryStore) else PostgresAlerts(store._pool)  # type: ignore[attr-defined]
    for at, (subject, kind) in enumerate(
        [("s", "skew"), ("s", "drift"), ("t", "skew"), ("u", "skew"), ("s", "silence")]
    ):
        await alerts.remember(Alert(f"{at}", subject, "warning", kind, "It is so.", at, f"{at}/o"), [], 0)
    await alerts.remember(Alert("r", "t", "warning", "skew", "No more.", 9, "2/o", resolved=True), [], 0)

    async with store.begin("m") as unit:
        found = await unit.standing(["s", "t"], ["skew", "silence"])
        assert [(alert.subject, alert.kind) for alert in found] == [("s", "skew"), ("s", "silence")]
        assert await unit.standing([], ["skew"]) == []


async def test_loops_are_listed_oldest_first(store: Store) -> None:
    for name, model in (("z", "m"), ("a", "m"), ("b", "other")):
        async with store.begin(model) as unit:
            await unit.put_loop(Loop(name, model))
    async with store.begin("m") as unit:
        await unit.put_loop(Loop("z", "m", state="live", open=False))

    assert [loop.id for loop in await store.loops("m", open_only=False)] == ["z", "a"]
    assert [loop.id for loop in await store.loops("m", open_only=True)] == ["a"]
    assert len(await store.loops("", open_only=False)) == 3
    assert (await store.find_loop("z")).state == "live"  # type: ignore[union-attr]
    assert await store.find_loop("nobody's") is None


async def test_a_loop_is_found_by_the_beginning_of_its_id_that_no_other_has(store: Store) -> None:
    async with store.begin("m") as unit:
        for name in ("abc", "abd", "ab%", "x"):
            await unit.put_loop(Loop(name, "m"))

    found = {
        begun: await store.find_loop(begun)
        for begun in ("abc", "abd", "ab%", "x", "ab", "a", "", "%", "abcd")
    }

    assert {begun for begun, loop in found.items() if loop} == {"abc", "abd", "ab%", "x"}
    async with store.begin("m") as unit:
        await unit.put_loop(Loop("yes-no", "m"))
    assert (await store.find_loop("yes")).id == "yes-no"  # type: ignore[union-attr]


async def test_health_tells_what_waits_and_the_newest_readings(store: Store) -> None:
    await store.take(Arrivals([predicted(("a", 10), ("b", 20))]))
    reading = Reading("performance", "m", 1, "mae", 2.0, 0, 10, 1, threshold=3.0)
    estimates = [
        replace(reading, name="estimated_mae", value=None, threshold=None, unknown="It is not known.")
    ]
    async with store.begin("m") as unit:
        await unit.keep_readings("performance", [replace(reading, value=9.0)])
        await unit.keep_readings("performance", [reading])
        await unit.keep_readings("estimate", estimates)
        await unit.save_watch(Watch(closed_ms=10, predictions=1))

    health = await store.health("m")

    assert (health.waiting, list(health.readings), health.watch.predictions) == (
        1,
        [*estimates, reading],
        1,
    )
    assert (await store.health("nobody's")).watch == Watch()


async def test_predictions_are_read_without_their_labels_all_of_each_instant(store: Store) -> None:
    await store.take(
        Arrivals([predicted(("a", 10), ("c", 20), ("b", 20), ("d", 30))], [labelled(("a", 15, 1.0))])
    )

    async with store.begin("m") as unit:
        whole, until = await unit.predictions(after_ms=0, until_ms=50)
        part, reached = await unit.predictions(after_ms=0, until_ms=50, at_most=2)
        instant, at = await unit.predictions(after_ms=10, until_ms=50, at_most=1)

    assert [(row.id, row.label, row.key) for row in whole] == [
        (name, None, f"key-{name}") for name in ("a", "b", "c", "d")
    ]
    assert ([row.id for row in part], [row.id for row in instant]) == (["a"], ["b", "c"])
    assert (until, reached, at) == (50, 19, 20)


async def test_where_labels_come_for_wanted_rows_others_have_none_and_each_weighs_by_its_chance(
    store: Store,
) -> None:
    await store.take(
        Arrivals(
            [predicted(("a", 10), ("b", 20), ("c", 30), ("d", 40))],
            [labelled(("a", 15, 1.0), ("b", 25, 2.0), ("c", 150, 3.0), ("d", 150, 4.0))],
        )
    )
    asked = [WantedLabel("m", 1, it, f"key-{it}", 5, 0.5, None, 0.25, 0, 9, 4, weight=0.5) for it in "bc"]
    async with store.begin("m") as unit:
        await unit.put_wanted([*asked, replace(asked[0], id="d", key="key-d", weight=None)])
    labels = replace(LABELS, wanted=True)

    async with store.begin("m") as unit:
        rows, _ = await unit.rows(labels, after_ms=0, until_ms=50)
        late, _ = await unit.rows(replace(labels, late_ms=100), after_ms=0, until_ms=50)
        every, _ = await unit.rows(LABELS, after_ms=0, until_ms=50)
        counts = [await unit.labelled(each, after_ms=0, before_ms=50) for each in (labels, LABELS)]
    async with store.begin_all([ToClose("m", labels, 40, 40)]) as units:
        together, until = await units["m"].rows(labels, after_ms=0, until_ms=30)

    assert [(row.label, row.weight) for row in rows] == [(None, None), (2.0, 0.5), (None, 0.5), (None, None)]
    assert [row.label for row in late] == [None, 2.0, 3.0, None]
    assert [(row.label, row.weight) for row in every] == [(1.0, 1.0), (2.0, 1.0), (None, 1.0), (None, 1.0)]
    assert counts == [1, 2]
    assert (together, until) == (rows[:3], 30)


async def test_what_is_to_be_labelled_is_told_until_it_has_a_label_or_is_forgotten(store: Store) -> None:
    await store.take(Arrivals([predicted(("a", 10), ("b", 20), ("c", 30), ("d", 40))]))
    asked = [WantedLabel("m", 1, it, f"key-{it}", 5, 0.5, None, 0.25, 0, 9, 4) for it in "abc"]
    async with store.begin("m") as unit:
        await unit.put_wanted(asked)
        await unit.put_wanted([replace(asked[0], chance=1.0)])

    assert await store.wanted("m", LABELS, 10) == asked[::-1]
    assert await store.wanted("m", LABELS, 1) == [asked[2]]
    assert await store.wanted("other", LABELS, 10) == []

    await store.take(Arrivals(labelled=[labelled(("c", 35, 1.0), ("b", 10, 1.0))]))
    assert await store.wanted("m", LABELS, 10) == [asked[1], asked[0]]
    await store.forget("m", before_ms=15, at_most=10)
    assert await store.wanted("m", LABELS, 10) == [asked[1]]


async def test_a_version_is_known_by_its_reference_and_by_what_its_predictions_carry(store: Store) -> None:
    file = StoredFile("/file", "d", 3)
    await store.put_versions([Version("m", 1, file), Version("m", 2, None)])
    await store.take(Arrivals([predicted(("a", 10), names=("a", "b"))]))
    await store.put_versions([Version("m", 1, file)])

    assert await store.version("m", 1) == Version("m", 1, file, ("a", "b"))
    assert await store.version("m", 2) == Version("m", 2, None)
    assert await store.version("m", 3) is None


async def test_texts_are_kept_with_what_predictions_carry(store: Store) -> None:
    said = replace(predicted(("a", 10), names=("a",)), text_names=("b", "c"), texts=[b'["x", ""]'])
    await store.take(Arrivals([said]))

    version = await store.version("m", 1)
    assert version is not None and version.features == ("a", "b", "c")
    async with store.begin("m") as unit:
        ((row,), _) = await unit.rows(LABELS, after_ms=0, until_ms=1_000)
    assert row.texts == b'["x", ""]'
    with pytest.raises(BadBatch):
        await store.take(Arrivals([predicted(("d", 20), names=("a",))]))


async def test_what_further_versions_of_an_ab_test_said_is_kept(store: Store) -> None:
    said = replace(predicted(("a", 10), ("b", 20)), others=[b"[2,[[3,1.5,null]]]", b"[2,[[3,null,null]]]"])
    await store.take(Arrivals([said]))
    await store.take(Arrivals([predicted(("c", 30))]))

    rows, _ = await rows_of(store)
    assert [row.others for row in rows] == [*said.others, None]  # type: ignore[misc]


async def test_how_far_a_version_was_trained_is_kept_and_what_is_labelled_since_is_counted(
    store: Store,
) -> None:
    await store.put_versions([Version("m", 1, None), Version("m", 2, None, trained_to_ms=15)])
    await store.put_versions([Version("m", 2, None), Version("m", 1, None, trained_to_ms=5)])
    await store.take(
        Arrivals(
            [predicted(("a", 10), ("b", 20), ("c", 30), ("d", 40))],
            [labelled(("a", 11, 1.0), ("b", 21, 1.0), ("d", 41, 1.0), ("d", 42, 1.0))],
        )
    )

    async with store.begin("m") as unit:
        assert [await unit.trained_to(number) for number in (1, 2, 3)] == [5, 15, None]
        assert await unit.labelled(LABELS, after_ms=5, before_ms=99) == 3
        assert await unit.labelled(LABELS, after_ms=10, before_ms=40) == 1


async def test_a_version_does_not_change_its_features(store: Store) -> None:
    await store.take(Arrivals([predicted(("a", 10), names=("a", "b"))]))

    with pytest.raises(BadBatch):
        await store.take(Arrivals([predicted(("c", 10), names=("b", "a"))]))

    assert len((await rows_of(store))[0]) == 1


async def test_a_calibration_is_kept_as_it_was(store: Store, world: Any) -> None:
    settings = replace(world.calibrations.settings(world.specs.model("m")), slices=("request.x",))
    found = await world.desk.calibrate(StoredFile("/1", "", 0), settings)
    await store.put_calibration("m", 1, "s", found)
    await store.put_calibration("m", 1, "s", Uncalibrated("another"))
    await store.put_calibration("m", 2, "s", Uncalibrated("no rows"))

    kept, size = await store.calibration("m", 1, "s")
    assert kept == found
    assert size == pytest.approx(len(msgspec.json.encode(found)), rel=0.2), (
        "PostgreSQL writes spaces in between"
    )
    assert await store.calibration("m", 2, "s") == (Uncalibrated("no rows"), 0)
    assert await store.calibration("m", 1, "other") == (None, 0)


async def test_a_report_is_ordered_once_and_not_tried_twice_at_a_time(store: Store) -> None:
    await store.take(Arrivals([predicted(("a", 10), ("b", 20)), predicted(("c", 15), version=2)]))
    order = ReportOrder("e", "m", 1, LABELS, 10, 20, "/report.html")
    for _ in range(2):
        async with store.begin("m") as unit:
            await unit.order_report(order)

    assert await store.next_report() == order
    assert await store.next_report() is None
    assert [row.id for row in await store.report_rows(order)] == ["a", "b"]
    assert await store.reports_from("m") == 10
    assert await store.reports_from("other") is None
    await store.report_done("e")
    assert await store.next_report() is None
    assert await store.reports_from("m") is None


async def test_old_rows_are_forgotten_a_few_at_a_time(store: Store) -> None:
    rows = [(str(at), at) for at in range(10, 20)]
    await store.take(Arrivals([predicted(*rows)], [labelled(*[(name, at, 1.0) for name, at in rows])]))

    assert await store.forget("m", before_ms=15, at_most=3) == 3
    assert await store.forget("m", before_ms=15, at_most=3) == 2
    assert await store.forget_labels(LABELS.name, before_ms=18, at_most=100) == 8
    assert labels_of(await rows_of(store)) == [
        ("15", None),
        ("16", None),
        ("17", None),
        ("18", 1.0),
        ("19", 1.0),
    ]


async def test_news_leaves_in_the_order_in_which_it_was_told(store: Store) -> None:
    async with store.begin("m") as unit:
        await unit.tell([Closed("m", 1), Closed("m", 2)])
        await unit.tell([Closed("m", 3)])

    if isinstance(store, MemoryStore):
        assert [item.time_ms for item in store.told] == [1, 2, 3]  # type: ignore[union-attr]
    else:
        pool: asyncpg.Pool = store._pool  # type: ignore[attr-defined]
        keys = await pool.fetch("SELECT key, topic FROM outbox ORDER BY sequence")
        assert [(row["key"], row["topic"]) for row in keys] == [(b"monitoring/m/0/", "watermarks")] * 3


async def test_decisions_are_the_same_on_both_stores(store: Store, new_world: Make, flow: Make) -> None:
    parts = [flow(0, 250), flow(250, 450, shift=1.0)]
    plain, world = new_world(), new_world(store)
    for it in (plain, world):
        await it.ready()
        await it.live(*parts)
        it.restart()
        await it.live(flow(700, 60))

    assert await store.watch("m") == await plain.store.watch("m")
    assert {loop.id for loop in await store.loops("m", open_only=False)} == {
        loop.id for loop in await plain.store.loops("m", open_only=False)
    }


async def test_a_label_that_is_a_class_has_the_number_that_the_model_gives_it(store: Store) -> None:
    ours = replace(LABELS, classes=("low", "high"))
    theirs = replace(LABELS, classes=("high", "middle", "low"))
    chances = [np.array([0.1, 0.9]).tobytes()] * 3
    said = replace(predicted(("a", 10), ("b", 20), ("c", 30)), champion_probabilities=chances)
    truth = Labelled(
        ours.name, ["key-a", "key-b", "key-c"], [15, 25, 35], [np.nan] * 3, ["low", "middle", "high"]
    )
    await store.take(Arrivals([said], [truth, labelled(("a", 15, 7.0))]))

    async def found(labels: LabelStream) -> Any:
        async with store.begin("m") as unit:
            rows, _ = await unit.rows(labels, after_ms=0, until_ms=1_000)
            return rows, await unit.labelled(labels, after_ms=0, before_ms=1_000)

    rows, count = await found(ours)
    assert ([row.label for row in rows], count) == ([0.0, None, 1.0], 2)
    assert [row.champion_probabilities for row in rows] == chances
    assert [row.challenger_probabilities for row in rows] == [None] * 3
    rows, count = await found(theirs)
    assert ([row.label for row in rows], count) == ([2.0, 1.0, 0.0], 3)
    rows, count = await found(LABELS)
    assert ([row.label for row in rows], count) == ([7.0, None, None], 1)


async def test_the_newest_rows_are_of_one_version_and_come_with_their_labels(store: Store) -> None:
    await store.take(
        Arrivals(
            [
                predicted(*((f"a{at}", at) for at in range(10, 20))),
                predicted(("b", 15), ("c", 18), version=2),
            ],
            [labelled(("a18", 18, 0.5))],
        )
    )

    async def found(version: int, at_most: int, since_ms: int = 0, until_ms: int = 99) -> Any:
        return await store.newest_rows(
            "m", version, LABELS, since_ms=since_ms, until_ms=until_ms, at_most=at_most
        )

    assert [(row.id, row.label) for row in await found(1, 2)] == [("a18", 0.5), ("a19", None)]
    assert [row.id for row in await found(1, 99, 12, 14)] == ["a12", "a13"]
    assert [row.id for row in await found(2, 99)] == ["b", "c"]
    assert await found(3, 99) == await found(1, 99, 20) == []


async def test_what_is_known_of_fairness_and_of_a_slice_is_stored_whatever_its_groups_are_called(
    store: Store,
) -> None:
    gate = Fairness("group", "error_rate", max_difference=0.1, min_rows=1)
    label, said = np.array([0.0, 1.0, 0.0, 1.0]), np.array([0.1, 0.2, 0.9, 0.8])
    groups = as_texts(np.array(["a\0b", "c", "a\0b", "c"], object))
    looked = fairwatch.look(
        gate, None, label, said, groups, (), version=1, from_ms=1, to_ms=2, cap=1.0, windows=100.0, patience=2
    )
    async with store.begin("m") as unit:
        await unit.save_watch(replace(unit.watch, fairness={"gate": looked.state}))

    assert (await store.watch("m")).fairness == {"gate": looked.state}
    assert looked.state.evidence
