"""What comes of a source: unusual hours and silence are told, at no more than the stated rate, and nights are no silence."""

from dataclasses import replace

import numpy as np
import pytest
from numpy.typing import NDArray
from trimtab_core import flow
from trimtab_core.flow import HOUR_MS, FlowFault, FlowState, Hour

MONDAY = 1_700_438_400_000 // HOUR_MS * HOUR_MS


def counts_of(days: int, *, seed: int = 1, mean: float = 200.0) -> NDArray[np.int64]:
    """Return hourly counts with nights and week ends."""
    hours = np.arange(days * 24)
    shape = 0.05 + np.clip(np.sin((hours % 24 - 6) / 24 * 2 * np.pi), 0, None)
    return np.random.default_rng(seed).poisson(mean * shape * np.where(hours // 24 % 7 >= 5, 0.5, 1.0))


def hours_of(counts: NDArray[np.int64], repeats: NDArray[np.int64] | None = None) -> list[Hour]:
    said = np.zeros(counts.size, int) if repeats is None else repeats
    return [
        Hour(MONDAY + at * HOUR_MS, int(events), int(again))
        for at, (events, again) in enumerate(zip(counts, said, strict=True))
        if events or again
    ]


def lived(
    counts: NDArray[np.int64], *, from_hour: int, repeats: NDArray[np.int64] | None = None
) -> list[FlowState]:
    state, states = FlowState(MONDAY + from_hour * HOUR_MS), []
    for at in range(from_hour + 1, counts.size + 1):
        said = None if repeats is None else repeats[:at]
        state, *_ = flow.judge("trips", hours_of(counts[:at], said), state, MONDAY + at * HOUR_MS)
        states.append(state)
    return states


@pytest.mark.parametrize("mean", [5.0, 200.0])
def test_usual_weeks_raise_no_more_than_is_stated(mean: float) -> None:
    raised = 0
    for seed in range(3):
        counts, rng = counts_of(42, seed=seed, mean=mean), np.random.default_rng(seed + 9)
        _, figures, _ = flow.judge(
            "trips",
            [
                replace(hour, delay_ms=5_000 * float(late), refused=int(wrong))
                for hour, late, wrong in zip(
                    hours_of(counts),
                    rng.lognormal(0, 0.5, counts.size),
                    rng.poisson(0.3, counts.size),
                    strict=False,
                )
            ],
            FlowState(MONDAY + 28 * 24 * HOUR_MS),
            MONDAY + 42 * 24 * HOUR_MS,
        )
        raised += sum(each.over for each in figures)

    assert raised <= 2, "a fifth of one in 90 days is stated for each figure, and these are 42"


@pytest.mark.parametrize(("factor", "told"), [(0.3, True), (3.0, True), (0.9, False)])
def test_an_hour_is_held_against_the_same_hour_of_other_weeks(factor: float, told: bool) -> None:
    counts = counts_of(29)
    noon = 28 * 24 + 12
    counts[noon] = int(counts[noon] * factor)

    states = lived(counts[: noon + 4], from_hour=noon - 1)

    fault = states[1].faults.get("volume")
    assert (fault is not None) == told
    if fault is not None:
        assert "of source 'trips' in the hour of" in fault.sentence and "are usual" in fault.sentence
    assert states[-1].faults == {}, "and two usual hours end it"


def test_repeats_are_unusual_only_if_they_are_more() -> None:
    counts, repeats = counts_of(21), np.full(21 * 24, 5)
    repeats[-1], counts[-1] = 90, np.median(counts[-1::-168])

    assert list(lived(counts, from_hour=counts.size - 1, repeats=repeats)[-1].faults) == ["duplicates"]
    repeats[-1] = 0
    assert lived(counts, from_hour=counts.size - 1, repeats=repeats)[-1].faults == {}


@pytest.mark.parametrize(("refused", "told"), [(3, False), (40, True)])
def test_a_jump_of_refused_rows_is_told_and_over_when_they_are_few_again(refused: int, told: bool) -> None:
    counts = counts_of(21)
    hours = [replace(hour, refused=0) for hour in hours_of(counts)]
    hours[-3] = replace(hours[-3], refused=refused)
    until = hours[-3].at_ms + HOUR_MS

    state, *_ = flow.judge("trips", hours[:-2], FlowState(until - HOUR_MS), until)
    after, *_ = flow.judge("trips", hours, state, until + 2 * HOUR_MS)

    assert list(state.faults) == ["refused"] * told
    if told:
        assert state.faults["refused"].sentence.startswith(
            "40 rows of source 'trips' were refused in the hour of "
        )
    assert after.faults == {}


def test_a_delay_that_grows_is_told_and_one_that_is_always_so_or_shrinks_is_not() -> None:
    rng = np.random.default_rng(3)
    hours = [
        replace(hour, delay_ms=60_000 * float(rng.lognormal(0, 0.2))) for hour in hours_of(counts_of(21))
    ]
    until = hours[-1].at_ms + HOUR_MS

    def told(delay_ms: float | None) -> list[str]:
        newest = [*hours[:-1], replace(hours[-1], delay_ms=delay_ms)]
        state, *_ = flow.judge("trips", newest, FlowState(until - HOUR_MS), until)
        return [fault.sentence for fault in state.faults.values()]

    assert [told(delay) for delay in (None, 0.0, 60_000.0)] == [[], [], []]
    (said,) = told(3_600_000.0)
    assert said.startswith("Events of source 'trips' arrived 3,600 s after their time in the hour of ")
    quick = [replace(hour, delay_ms=20.0) for hour in hours[:-1]]
    state, *_ = flow.judge(
        "trips", [*quick, replace(hours[-1], delay_ms=600.0)], FlowState(until - HOUR_MS), until
    )
    assert state.faults == {}, "less than a second is nothing"


def test_silence_is_where_events_were_to_be_expected() -> None:
    counts = counts_of(21)
    evening, noon = 20 * 24 + 20, 20 * 24 + 12
    quiet, busy = counts.copy()[: evening + 1], counts.copy()[: noon + 1]

    def silent(counts: NDArray[np.int64], hours: float) -> bool:
        newest = MONDAY + (counts.size - 1) * HOUR_MS
        state = flow.silence("trips", hours_of(counts), FlowState(), newest, newest + round(hours * HOUR_MS))
        return "silence" in state.faults

    assert not silent(busy, 0.01)
    assert silent(busy, 1)
    low = counts_of(21, mean=4.0)
    assert not silent(low[: evening + 1], 8), "nights are quiet"
    assert silent(low[: evening + 1], 48)
    assert silent(quiet, 12)


def test_a_source_that_is_heard_again_is_no_more_silent() -> None:
    hours = hours_of(counts_of(21))
    newest = hours[-1].at_ms
    quiet = flow.silence("trips", hours, FlowState(), newest, newest + 40 * HOUR_MS)
    assert "silence" in quiet.faults

    assert flow.silence("trips", hours, quiet, newest + 40 * HOUR_MS, newest + 40 * HOUR_MS).faults == {}


def test_every_hour_that_is_over_has_its_figures_from_the_first_on() -> None:
    counts = counts_of(2)
    counts[:3] = [4, 0, 6]

    state, told, _ = flow.judge("trips", hours_of(counts[:3]), FlowState(), MONDAY + 3 * HOUR_MS)
    _, more, _ = flow.judge("trips", hours_of(counts[:4]), state, MONDAY + 4 * HOUR_MS)

    events = [(each.at_ms, each.value, each.expected) for each in told if each.kind == "volume"]
    assert events == [(MONDAY + at * HOUR_MS, float(counts[at]), None) for at in range(3)]
    assert {each.at_ms for each in more} == {MONDAY + 3 * HOUR_MS}, "and each is told once"


def test_hours_of_which_nothing_is_known_end_no_fault() -> None:
    counts = counts_of(1)
    faults = {"volume": FlowFault("volume", MONDAY - HOUR_MS, "too many")}

    state, told, _ = flow.judge("trips", hours_of(counts), FlowState(MONDAY, faults), MONDAY + 24 * HOUR_MS)

    assert told and all(each.expected is None for each in told)
    assert state.faults == faults


@pytest.mark.parametrize("trickle", [0, 1])
def test_an_outage_is_not_over_while_it_lasts_however_the_looks_come(trickle: int) -> None:
    counts = np.concatenate([np.full(21 * 24, 100), np.full(72, trickle), np.full(6, 100)])
    first, until = 21 * 24, MONDAY + counts.size * HOUR_MS
    hours = hours_of(counts)

    def after(at: int) -> dict[flow.Kind, FlowFault]:
        return lived(counts[:at], from_hour=first)[-1].faults

    assert after(first + 72)["volume"].since_ms == MONDAY + first * HOUR_MS
    assert after(counts.size) == {}
    late, _, brief = flow.judge("trips", hours, FlowState(MONDAY + first * HOUR_MS), until)
    assert late.faults == {}
    assert [(each.kind, each.since_ms) for each in brief] == [("volume", MONDAY + first * HOUR_MS)]


def test_of_a_source_that_has_just_begun_nothing_is_said() -> None:
    counts = counts_of(4)
    counts[-1] = 100_000

    assert lived(counts, from_hour=90)[-1].faults == {}
    assert flow.silence("trips", hours_of(counts), FlowState(), MONDAY, MONDAY + 900 * HOUR_MS).faults == {}
