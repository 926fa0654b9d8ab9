"""A rise of the losses is told within tens of rows, at about the stated rate of false alarms."""

from collections.abc import Callable
from typing import Any

import msgspec
import numpy as np
import pytest
from trimtab_core.concept import Change, ChangeState, ChangeThreshold, calibrate_change, watch_losses

Floats = np.ndarray[Any, Any]


def mistakes(rng: np.random.Generator, rows: int) -> Floats:
    return (rng.random(rows) < 0.1).astype(np.float64)


def minutes(rng: np.random.Generator, rows: int) -> Floats:
    return np.minimum(rng.lognormal(1, 1, rows), 60)


def first(threshold: ChangeThreshold, losses: Floats) -> Change | None:
    return watch_losses(threshold, ChangeState(), losses, range(len(losses)))[1]


@pytest.mark.parametrize("draw", [mistakes, minutes])
def test_without_change_alarms_come_at_most_about_as_often_as_stated(
    draw: Callable[[np.random.Generator, int], Floats],
) -> None:
    """Once in 2,000 rows over 4 x 20,000 rows: 40 are stated."""
    alarms = 0
    for seed in range(4):
        rng = np.random.default_rng(seed)
        threshold = calibrate_change(draw(rng, 5_000), rows_between=2_000, seed=seed)
        live = draw(rng, 20_000)
        while (change := first(threshold, live)) is not None:
            alarms, live = alarms + 1, live[change.at + 1 :]

    assert 5 <= alarms <= 60


def test_mistakes_that_treble_are_seen_in_tens_of_rows_and_dated() -> None:
    rng = np.random.default_rng(3)
    threshold = calibrate_change(mistakes(rng, 5_000), rows_between=50_000)
    found = []
    for _ in range(20):
        losses = np.concatenate([mistakes(rng, 200), (rng.random(800) < 0.3).astype(np.float64)])
        change = first(threshold, losses)
        assert change is not None
        assert change.usual < change.mean
        assert change.mean == pytest.approx(losses[int(change.began) : change.at + 1].mean())
        found.append((change.at - 200, change.began - 200))

    delays, began = np.array(found).T
    assert 0 < np.median(delays) < 60
    assert abs(np.median(began)) < 20


def test_a_rise_within_the_tolerance_adds_up_to_nothing() -> None:
    rng = np.random.default_rng(4)
    reference = rng.normal(100, 1, 5_000)
    threshold = calibrate_change(reference, rows_between=10_000)

    assert first(threshold, rng.normal(109, 1, 5_000)) is None
    assert first(threshold, rng.normal(112, 1, 5_000)) is not None


def test_batches_do_not_matter_and_what_is_remembered_can_be_kept() -> None:
    rng = np.random.default_rng(5)
    threshold = calibrate_change(minutes(rng, 2_000), rows_between=20_000)
    losses = np.concatenate([minutes(rng, 500), minutes(rng, 500) * 1.5])
    whole = first(threshold, losses)
    assert whole is not None
    for cuts in ([1, 2, 3], [250, 500, 750], list(range(100, 1_000, 100))):
        state, change, start = ChangeState(), None, 0
        for end in [*cuts, len(losses)]:
            state = msgspec.json.decode(msgspec.json.encode(state), type=ChangeState)
            state, change = watch_losses(threshold, state, losses[start:end], range(start, end))
            if change is not None:
                break
            start = end
        assert change is not None
        assert (start + change.at, change.began, change.mean) == (whole.at, whole.began, whole.mean)
        assert state == ChangeState()


def test_losses_that_are_all_zero_are_watched_too() -> None:
    threshold = calibrate_change(np.zeros(500), rows_between=1_000)

    assert first(threshold, np.zeros(5_000)) is None
    assert first(threshold, np.ones(5)) is not None


def test_what_cannot_be_read_is_refused_with_a_remedy() -> None:
    with pytest.raises(ValueError, match="fewer than two"):
        calibrate_change([0.5], rows_between=1_000)
    with pytest.raises(ValueError, match="not all finite"):
        calibrate_change([0.5, np.nan], rows_between=1_000)
    with pytest.raises(ValueError, match="rows_between 5 is too few"):
        calibrate_change([0.5, 0.1], rows_between=5)
    threshold = calibrate_change(mistakes(np.random.default_rng(0), 500), rows_between=1_000)
    with pytest.raises(ValueError, match="not finite"):
        watch_losses(threshold, ChangeState(), [np.inf], [0.0])
