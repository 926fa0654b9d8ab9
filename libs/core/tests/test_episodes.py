"""One episode, one alarm, and the next only after the clear level."""

from collections.abc import Sequence
from itertools import pairwise

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from trimtab_core.calibration import Rule, WindowVerdict
from trimtab_core.episodes import DriftAlarm, EpisodeState, episode_id, step

TWO_OF_THREE = Rule(2, 3)
OVER = WindowVerdict({"x": 0.5}, {"x": 0.001}, 0.001, True, False, ("x",))
BETWEEN = WindowVerdict({"x": 0.2}, {"x": 0.2}, 0.2, False, False, ())
CLEAR = WindowVerdict({"x": 0.0}, {"x": 0.9}, 0.9, False, True, ())


def play(
    windows: Sequence[WindowVerdict], *, versions: Sequence[str] | None = None, rule: Rule = TWO_OF_THREE
) -> tuple[EpisodeState, list[DriftAlarm | None]]:
    state, alarms = EpisodeState(), []
    for number, window in enumerate(windows):
        state = msgspec.json.decode(msgspec.json.encode(state), type=EpisodeState)
        version = versions[number] if versions else "1"
        state, alarm = step(state, window, 60.0 * number, rule=rule, model="m", version=version, kind="data")
        alarms.append(alarm)
    return state, alarms


def fired(alarms: Sequence[DriftAlarm | None]) -> list[int]:
    return [number for number, alarm in enumerate(alarms) if alarm is not None]


def test_one_window_over_is_no_alarm_and_two_of_three_are() -> None:
    assert fired(play([OVER, BETWEEN, BETWEEN, OVER])[1]) == []
    assert fired(play([OVER, BETWEEN, OVER])[1]) == [2]


def test_an_alarm_carries_the_evidence_of_its_opening_window() -> None:
    state, alarms = play([OVER, OVER])
    alarm = alarms[1]

    assert alarm is not None
    assert (alarm.opened_at, alarm.min_p, alarm.drifted, alarm.scores) == (60.0, 0.001, ("x",), {"x": 0.5})
    assert alarm.episode == state.episode == episode_id("m", "1", "data", 60.0)
    assert len(alarm.episode) == 32


@pytest.mark.parametrize(
    ("windows", "changed_at"),
    [([OVER, OVER], 0), ([CLEAR, OVER, BETWEEN, OVER], 60), ([OVER, BETWEEN, CLEAR, OVER, OVER], 180)],
)
def test_an_alarm_says_where_its_first_window_began_that_was_over(
    windows: Sequence[WindowVerdict], changed_at: float
) -> None:
    alarm = play(windows)[1][-1]

    assert alarm is not None and alarm.changed_at == changed_at


def test_a_state_that_was_kept_before_it_knew_where_windows_began_still_alarms() -> None:
    kept = EpisodeState("1", (True,))

    _, alarm = step(kept, OVER, 60.0, rule=TWO_OF_THREE, model="m", version="1", kind="data")

    assert alarm is not None and alarm.changed_at == 60


def test_an_open_episode_stays_silent_until_it_is_clear() -> None:
    assert fired(play([OVER] * 20)[1]) == [1]
    assert fired(play([OVER, OVER, BETWEEN, OVER, OVER])[1]) == [1]
    assert fired(play([OVER, OVER, CLEAR, OVER, OVER])[1]) == [1, 4]


def test_a_new_version_starts_afresh() -> None:
    state, alarms = play([OVER] * 5, versions=["1", "1", "2", "2", "2"])

    assert fired(alarms) == [1, 3]
    assert state.version == "2"


def test_what_makes_an_episode_makes_its_id() -> None:
    ids = {
        episode_id("m", "1", "data", 0.0),
        episode_id("m", "2", "data", 0.0),
        episode_id("m", "1", "performance", 0.0),
        episode_id("m", "1", "data", 0.001),
        episode_id("n", "1", "data", 0.0),
    }

    assert len(ids) == 5
    assert episode_id("m", "1", "data", 0) == episode_id("m", "1", "data", 0.0)


@given(st.lists(st.sampled_from([OVER, BETWEEN, CLEAR]), max_size=40), st.integers(1, 4), st.integers(0, 3))
def test_between_two_alarms_there_is_always_a_clear_window(
    windows: list[WindowVerdict], k: int, more: int
) -> None:
    alarms = fired(play(windows, rule=Rule(k, k + more))[1])

    for first, second in pairwise(alarms):
        assert any(window.clear for window in windows[first:second])
    assert all(windows[number].over for number in alarms)


def test_a_rule_that_cannot_fire_is_refused() -> None:
    with pytest.raises(ValueError, match="3 of 2"):
        Rule(3, 2)
