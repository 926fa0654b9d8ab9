"""What a candidate is fitted to after a change, chosen by the past alone; and what monitoring will hold it against."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
from trimtab_core import losses
from trimtab_core.specs import ModelSpec, parse
from trimtab_training import choosing, fitting, reference
from trimtab_training.choosing import Chosen, Window
from trimtab_training.families import Floats, Matrix
from trimtab_training.fitting import Effort, Rows

HOUR = 3_600_000


def a_spec(**trainer: Any) -> ModelSpec:
    spec = {
        "task": "regression",
        "source": "trips",
        "features": ["request.x"],
        "rollout": {"cap": 100},
        "monitoring": {"window": 50},
        "label": {"source": "trips", "on": "id", "value": "y", "within": "1h"},
        "trainer": {"window": "300d", "kind": "linear", "holdout": 0.2, "min_rows": 100, **trainer},
    }
    model: Any = parse("Model", {"metadata": {"name": "m"}, "spec": spec})
    found: ModelSpec = model.spec
    return found


def a_world(*, changed: int | None, by: float = 10.0, count: int = 2_000) -> Rows:
    """Rows an hour apart whose label moves `by` with the row `changed`."""
    rng = np.random.default_rng(1)
    label = rng.normal(0, 0.5, count)
    if changed is not None:
        label[changed:] += by
    return Rows(rng.normal(size=(count, 1)).astype(np.float32), label, np.arange(count) * HOUR)


@dataclass(frozen=True)
class Mean:
    """Knows the weighted mean of what it was fitted to, and nothing else."""

    value: float

    def predict(self, features: Matrix) -> Floats:
        return np.full(len(features), self.value)

    def to_onnx(self) -> Any:
        raise NotImplementedError


class Fits:
    """Fits means, and remembers which rows each saw."""

    def __init__(self) -> None:
        self.saw: list[Rows] = []

    def __call__(self, spec: ModelSpec, rows: Rows) -> Mean:
        self.saw.append(rows)
        return Mean(float(np.average(rows.label, weights=fitting.weights(spec, rows))))


def off(label: Floats, said: Floats) -> Floats:
    return losses.loss("mae", label, said)


def chosen(spec: ModelSpec, rows: Rows, changed_ms: int | None, fits: Any = None) -> Chosen:
    windows = choosing.possible(spec, rows, changed_ms)
    judged = fitting.held_out(rows, spec)
    return choosing.judge(spec, rows, judged, windows, changed_ms, off, Effort(), fits or Fits())


def test_after_a_change_the_rows_since_then_are_fitted_to_once_there_are_enough() -> None:
    rows = a_world(changed=1_500)

    found = chosen(a_spec(), rows, 1_500 * HOUR)

    assert found.window is Window.AFTER
    assert "on 266 held-out rows since then" in found.sentence
    assert found.sentence.endswith("Fitted to the rows since then alone")


def test_until_there_are_enough_the_older_world_is_weighed_down() -> None:
    rows = a_world(changed=1_850)

    found = chosen(a_spec(after_drift={"min_rows": 500}), rows, 1_850 * HOUR)

    assert found.window is Window.BALANCED
    assert "500 rows since then may stand alone" in found.sentence


def test_a_change_that_was_none_costs_no_history() -> None:
    rng = np.random.default_rng(2)
    rows = a_world(changed=None)
    slow = Rows(rows.features, np.sin(np.arange(2_000) / 40) + rng.normal(0, 0.1, 2_000), rows.event_time_ms)

    found = chosen(a_spec(), slow, 1_500 * HOUR)

    assert found.window is not Window.AFTER


@pytest.mark.parametrize("changed_ms", [None, 0, 5_000 * HOUR, 1_990 * HOUR])
def test_what_is_not_known_to_have_changed_within_the_window_is_fitted_to_whole(
    changed_ms: int | None,
) -> None:
    found = chosen(a_spec(), a_world(changed=None), changed_ms)

    assert found.window is Window.HISTORY


def test_nothing_that_a_fit_sees_was_known_later_than_the_stretch_it_answers() -> None:
    rows, spec, fits = a_world(changed=1_700), a_spec(), Fits()
    chosen(spec, rows, 1_700 * HOUR, fits)

    begins = [
        int(stretch[0])
        for stretch in choosing.stretches(rows, fitting.held_out(rows, spec), 1_700 * HOUR, Effort())
    ]
    newest = sorted({int(seen.event_time_ms[-1]) // HOUR for seen in fits.saw})

    assert begins == [1_600, 1_700, 1_800, 1_900]
    assert newest == [begin - 2 for begin in begins]


def test_what_the_gates_read_was_chosen_before_it_was_seen() -> None:
    """The first rows of the new world are answered by the old one, although a better window is chosen in the end."""
    rows = a_world(changed=1_700)

    found = chosen(a_spec(after_drift={"min_rows": 50}), rows, 1_700 * HOUR)

    lost = off(rows.label[1_600:], found.predictions)
    assert lost[100:200].mean() > 9
    assert lost[300:].mean() < 1


def test_the_reference_after_a_change_holds_the_new_world_alone_by_fits_that_have_seen_it() -> None:
    rows, spec, changed_ms = a_world(changed=1_700), a_spec(), 1_700 * HOUR
    judged, found = fitting.held_out(rows, spec), chosen(spec, rows, changed_ms)
    place = reference.place(spec, rows, judged, changed_ms, Effort())

    said = reference.unseen(
        spec, rows, judged, found.predictions, place, found.window, changed_ms, Effort(), Fits()
    )

    assert place == slice(1_700, 2_000)
    assert off(rows.label[place], said).max() < 3


def test_no_row_of_a_reference_was_seen_by_the_fit_that_answers_it() -> None:
    rows, spec, changed_ms, fits = a_world(changed=1_700), a_spec(), 1_700 * HOUR, Fits()
    place = slice(1_700, 2_000)

    reference.unseen(
        spec, rows, slice(1_600, 2_000), np.zeros(400), place, Window.AFTER, changed_ms, Effort(), fits
    )

    times = [set(seen.event_time_ms.tolist()) for seen in fits.saw]
    assert [len(seen) for seen in times] == [200, 200, 200]
    assert not times[0] & times[1] & times[2]


def test_a_reference_of_too_little_of_the_new_world_holds_what_the_fit_effectively_saw() -> None:
    rows, spec = a_world(changed=1_950), a_spec(half_life="10d")

    place = reference.place(spec, rows, fitting.held_out(rows, spec), 1_950 * HOUR, Effort())

    assert 2_000 - place.start == pytest.approx(2 * 240 / np.log(2), rel=0.01)


@pytest.mark.parametrize(
    ("took_s", "known", "more", "effort"),
    [
        (9.9, 1_000_000, {}, Effort(1, 3)),
        (10.0, 1_000_000, {}, Effort(16, 1)),
        (10.0, 8_000, {}, Effort(4, 1)),
        (10.0, 1_000, {}, Effort(1, 1)),
        (99.0, 1_000_000, {"judging": "full"}, Effort(1, 3)),
    ],
)
def test_a_long_fit_is_judged_by_fits_to_a_part_of_the_rows_unless_told_otherwise(
    took_s: float, known: int, more: dict[str, Any], effort: Effort
) -> None:
    assert fitting.effort(a_spec(**more), took_s, known, choices=1) == effort


def test_where_a_window_is_to_be_chosen_a_long_fit_keeps_its_stretches() -> None:
    assert fitting.effort(a_spec(), 60, 1_000_000, choices=3) == Effort(16, 3)


def test_a_fit_that_judges_by_a_part_sees_the_newest_row() -> None:
    rows = a_world(changed=None, count=101)

    seen = Effort(every=16).seen(rows)

    assert seen.event_time_ms[-1] == rows.event_time_ms[-1] and len(seen) == 7
