"""A version that keeps the accepted level is left alone for ever, and one that does not is told within few rows."""

from typing import Any

import msgspec
import numpy as np
import pytest
from pydantic import ValidationError
from trimtab_core.accepted import Word, bet, drift, held_to, reading, take
from trimtab_core.baseline import Settings
from trimtab_core.specs import Model
from trimtab_core.watched import Accept, Acceptance, Row

Floats = np.ndarray[Any, np.dtype[np.float64]]
HOUR = 3_600_000


def a_model(
    accept: dict[str, Any] | None = None, *, gates: list[Any] | None = None, judge: str = "mae", window: Any = 100
) -> Model:  # fmt: skip
    monitoring = {"window": window} | ({"accept": accept} if accept else {})
    spec = {
        "task": "regression",
        "source": "asks",
        "features": ["request.x"],
        "label": {"source": "truths", "on": "id", "value": "y", "within": "1h"},
        "trainer": {"window": "30d"},
        "rollout": {"cap": 10, "judge": judge},
        "monitoring": monitoring,
        "gates": gates or [],
    }
    return Model.model_validate({"metadata": {"name": "m"}, "spec": spec})


def rows(count: int, *, first: int = 0, version: int = 1, step_ms: int = 60_000) -> list[Row]:
    return [
        Row((first + at) * step_ms, f"{first + at:06}", version, version, 0, "", 0.0, None, b"", 0.0)
        for at in range(count)
    ]


def lived(model: Model, *parts: tuple[list[Row], Floats]) -> tuple[Acceptance, list[Word]]:
    state, words = None, list[Word]()
    for part, losses in parts:
        state, more = take(model, Settings.of(model, None), state, part, losses)
        words += more
    assert state is not None
    return state, words


def said(words: list[Word], *what: str) -> list[Word]:
    return [word for word in words if word.what in what]


@pytest.mark.parametrize("kind", ["mistakes", "heavy-tailed"])
def test_false_alarms_are_at_most_alpha_however_long_one_looks(kind: str) -> None:
    rng, told, runs, alpha = np.random.default_rng(3), 0, 100, 0.2
    level = 0.05 if kind == "mistakes" else float(np.minimum(rng.lognormal(0, 1, 1_000_000), 10).mean())
    for _ in range(runs):
        drawn = rng.random(700) < 0.05 if kind == "mistakes" else np.minimum(rng.lognormal(0, 1, 700), 10)
        losses = drawn.astype(float).tolist()
        told += bet(Acceptance(Accept("mae", level, 10.0, alpha)), losses, range(700))[1] is not None

    assert told <= alpha * runs


def test_a_shift_is_told_within_few_rows_and_dated_however_long_it_was_good_before() -> None:
    rng, good, delays = np.random.default_rng(4), 3_000, list[int]()
    for _ in range(5):
        losses = rng.exponential(1, good + 400)
        losses[good:] += 0.5
        state, at = bet(Acceptance(Accept("mae", 1.1, 10.0, 0.01)), losses.tolist(), range(good + 400))
        assert at is not None and at >= good
        delays.append(at - good)
        assert abs(max(state.bets).from_ms - good) < 100

    assert np.mean(delays) < 150


def test_nothing_depends_on_how_the_rows_came_and_what_is_kept_reads_back() -> None:
    model, rng = a_model({"at_most": 1.5}), np.random.default_rng(5)
    losses = np.concatenate([rng.exponential(1, 450), rng.exponential(3, 300), rng.exponential(1, 500)])
    losses[::7] = np.nan
    all_rows = rows(losses.size)
    whole = lived(model, (all_rows, losses))

    state, words = None, list[Word]()
    for start, end in zip(*(np.r_[0, 3, 90, 451, 460, 780, 1_001, losses.size][at:] for at in (0, 1)), strict=False):  # fmt: skip
        state, more = take(model, Settings.of(model, None), state, all_rows[start:end], losses[start:end])
        state = msgspec.json.decode(msgspec.json.encode(state), type=Acceptance)
        words += more

    assert (state, words) == whole
    assert [word.what for word in said(words, "exceeded", "over")] == ["exceeded", "over"]


def test_an_episode_is_told_once_goes_on_and_is_over_when_the_level_is_kept_again() -> None:
    model, quiet, bad = a_model({"at_most": 1.5}), np.full(300, 1.0), np.full(300, 4.0)
    state, words = lived(model, (rows(900), np.concatenate([quiet, bad, quiet])))

    (exceeded,), (over,) = said(words, "exceeded"), said(words, "over")
    assert 300 * 60_000 < exceeded.at_ms < 330 * 60_000
    assert exceeded.from_ms == 300 * 60_000
    assert exceeded.evidence >= 100
    assert exceeded.mean == pytest.approx(4)
    assert over.episode == exceeded.episode
    assert "above the accepted level: its newest labelled rows keep it" in over.sentence
    assert {word.episode for word in said(words, "goes on")} == {exceeded.episode}
    assert state.episode == ""
    assert state.evidence < 2

    event = drift("m", state, exceeded, fault="", report="", recorded_ms=0)
    assert (event.kind, event.threshold) == ("performance", 1.5)
    assert event.severity == pytest.approx(4 / 1.5)
    assert event.changed_ms == exceeded.from_ms
    assert "The mae of version 1 is above the accepted 1.5: 4 over" in event.summary


def test_each_version_and_each_level_is_tested_from_the_beginning() -> None:
    bad, good = (rows(200), np.full(200, 4.0)), (rows(40, first=200, version=2), np.full(40, 1.0))
    state, words = lived(a_model({"at_most": 1.5}), bad, good)

    assert "version 2 answers now" in said(words, "over")[0].sentence
    assert (state.version, state.rows, state.episode) == (2, 40, "")

    state, _ = lived(a_model({"at_most": 1.5}), bad)
    other = a_model({"at_most": 5.0})
    after, words = take(other, Settings.of(other, None), state, *good)
    assert "accepts another level" in said(words, "over")[0].sentence
    assert after is not None and after.rows == 40
    assert take(a_model(), Settings.of(other, None), after, *good) == (None, [])


def test_the_standing_is_told_with_each_window_of_labelled_rows_or_stretch_of_time() -> None:
    state, words = lived(a_model({"at_most": 1.5}), (rows(250), np.full(250, 1.0)))

    told = [reading("m", state, word) for word in words]
    assert [(it.name, it.rows, it.threshold) for it in told] == [
        ("evidence_above_accepted", 100, 100),
        ("evidence_above_accepted", 200, 100),
    ]
    assert all(it.value is not None and it.value < 1 for it in told)

    hourly = a_model({"at_most": 1.5}, window="1h")
    _, words = lived(hourly, (rows(130), np.full(130, 1.0)))
    assert [(word.rows, word.to_ms) for word in words] == [(60, 59 * 60_000), (120, 119 * 60_000)]


def test_a_level_is_stated_or_is_that_of_a_gate_and_of_an_rmse_is_squared() -> None:
    gates = [
        {"metric": "mae", "at_most": 6},
        {"metric": "mae", "at_most": 4},
        {"metric": "rmse", "at_most": 2},
    ]
    assert held_to(a_model().spec) is None
    assert held_to(a_model(gates=gates).spec) == Accept("mae", 4.0, 10.0, 0.01)
    assert held_to(a_model({"at_most": 5, "alpha": 0.1}, gates=gates).spec) == Accept("mae", 5.0, 10.0, 0.1)
    assert held_to(a_model(gates=gates, judge="rmse").spec) == Accept("rmse", 4.0, 10.0, 0.01)
    assert held_to(a_model(gates=[{"metric": "mae", "at_most": 12}]).spec) is None, "the cap is below it"


@pytest.mark.parametrize(
    ("accept", "judge", "said"),
    [
        ({"at_most": 10}, "mae", "10 cannot be exceeded, as a row's loss counts 10 at most"),
        ({"at_most": 4}, "rmse", "4 cannot be exceeded, as a row's loss counts 10 at most"),
        ({"at_most": 0}, "mae", "at_most"),
        ({"at_most": 1, "alpha": 0.5}, "mae", "alpha"),
        ({"alpha": 0.5}, "mae", "at_most"),
    ],
)
def test_a_level_that_cannot_be_tested_is_refused(accept: dict[str, Any], judge: str, said: str) -> None:
    with pytest.raises(ValidationError, match=said):
        a_model(accept, judge=judge)
