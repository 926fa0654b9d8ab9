"""Performance by slice and by arm: bounded, adding up to the whole, and corrected by labels that come late."""

from dataclasses import replace
from typing import Any

import msgspec
import numpy as np
import pytest
from trimtab_core import slicing
from trimtab_core.sliced import MISSING, MOST, OTHER
from trimtab_core.slicing import LABELLED
from trimtab_core.specs import Model, ModelSpec
from trimtab_core.watched import Others, Reading, Row, Said, Scored
from trimtab_core.windows import DataWindow, PerformanceWindow, champion_losses

FEATURES = ("request.zone", "request.pay")


def a_spec(*slices: str, **more: Any) -> ModelSpec:
    spec = {
        "task": "regression", "source": "asks", "features": list(FEATURES), "trainer": {"window": "30d"},
        "label": {"source": "truths", "on": "id", "value": "y", "within": "1h"}, "rollout": {"cap": 100},
        "monitoring": {"slices": slices or ["zone", "request.pay"]},
    }  # fmt: skip
    return Model.model_validate({"metadata": {"name": "m"}, "spec": spec | more}).spec


def a_row(
    at: int, zone: float, pay: str, said: float, label: float | None = 0.0, other: float | None = None
) -> Row:
    challenger = 2 if other is not None else 0
    return Row(
        at, f"{at:05}", 1, 1, challenger, "r" if challenger else "", said, other, np.array([zone]).tobytes(), label,
        texts=f'["{pay}"]'.encode(),
    )  # fmt: skip


def a_window(rows: list[Row], spec: ModelSpec) -> PerformanceWindow:
    losses = champion_losses(spec, rows).tolist()
    scored = [
        Scored(row.at_ms, row.id, lost, row) for row, lost in zip(rows, losses, strict=True) if lost == lost
    ]
    return PerformanceWindow(1, scored)


def by_slice(readings: list[Reading], feature: str, **which: Any) -> dict[str, tuple[float, int]]:
    return {
        it.slice: (it.value, it.rows)
        for it in readings
        if it.feature == feature and all(getattr(it, name) == value for name, value in which.items())
    }


def test_losses_are_told_for_each_value_with_the_rows_that_they_are_of() -> None:
    spec = a_spec()
    rows = [a_row(at, 7.0 if at % 4 else np.nan, "card" if at % 2 else "", said=at % 2) for at in range(80)]

    told = slicing.measured("m", a_window(rows, spec), FEATURES, spec)

    assert by_slice(told, "request.zone") == {"7": (pytest.approx(2 / 3), 60), MISSING: (0.0, 20)}
    assert by_slice(told, "request.pay") == {"card": (1.0, 40), MISSING: (0.0, 40)}
    assert len({reading.id for reading in told}) == len(told)


def test_many_values_are_told_by_their_largest_and_the_rest_together_so_that_rows_add_up() -> None:
    spec = a_spec("zone")
    rng = np.random.default_rng(1)
    rows = [a_row(at, float(rng.zipf(1.3) % 300), "", said=float(rng.exponential())) for at in range(2_000)]
    window = a_window(rows, spec)

    found = by_slice(slicing.measured("m", window, FEATURES, spec), "request.zone")

    assert len(found) == MOST + 1
    assert sum(count for _, count in found.values()) == 2_000
    merged = sum(value * count for value, count in found.values()) / 2_000
    assert merged == pytest.approx(window.losses.mean())


def test_slices_of_an_rmse_add_up_by_their_squares() -> None:
    spec = a_spec("zone", rollout={"judge": "rmse", "cap": 100})
    rows = [a_row(at, float(at % 3), "", said=float(at % 7)) for at in range(70)]
    window = a_window(rows, spec)

    found = by_slice(slicing.measured("m", window, FEATURES, spec), "request.zone", name="rmse")

    assert sum(value**2 * count for value, count in found.values()) / 70 == pytest.approx(
        window.losses.mean()
    )


def test_both_arms_of_a_rollout_are_told_on_the_rows_that_both_answered() -> None:
    spec = a_spec("zone")
    rows = [a_row(at, float(at % 2), "", said=2.0, other=1.0 if at < 30 else None) for at in range(50)]
    rows[0] = rows[0]._replace(challenger=np.nan)

    told = slicing.measured("m", a_window(rows, spec), FEATURES, spec)

    arms = {(it.arm, it.version): (it.value, it.rows) for it in told if it.arm and not it.slice}
    assert arms == {("champion", 1): (2.0, 29), ("challenger", 2): (1.0, 29)}
    assert by_slice(told, "request.zone", arm="challenger") == {"0": (1.0, 14), "1": (1.0, 15)}
    assert by_slice(told, "request.zone", arm="") == {"0": (2.0, 25), "1": (2.0, 25)}


def test_each_arm_of_a_test_of_several_is_told_on_the_rows_that_it_and_the_champion_answered() -> None:
    spec = a_spec("zone")
    rows = [a_row(at, float(at % 2), "", said=2.0, other=1.0) for at in range(50)]
    for at in range(40):  # the third was not asked before, and left after it
        rows[at] = rows[at]._replace(others=others(3, 4, said=0.5 if at >= 10 else None))
    rows[40:] = [row._replace(others=others(2, 4)) for row in rows[40:]]
    rows = [
        *rows,
        *[
            a_row(50 + at, 0.0, "", said=2.0, other=1.0)._replace(others=others(3, 4, said=0.25))
            for at in range(5)
        ],
    ]

    told = slicing.measured("m", a_window(rows, spec), FEATURES, spec)

    arms = {(it.arm, it.version): (it.value, it.rows) for it in told if it.arm and not it.slice}
    assert arms == {
        ("champion", 1): (2.0, 55),
        ("challenger", 2): (1.0, 55),
        ("challenger", 3): (pytest.approx((30 * 0.5 + 5 * 0.25) / 35), 35),
        ("challenger", 4): (4.0, 55),
    }
    assert len({it.id for it in told}) == len(told)


def others(*versions: int, said: float | None = 4.0) -> bytes:
    """Return what versions beside the challenger said: the last 4, and any before it `said`."""
    each = tuple(Said(number, 4.0 if number == 4 else said) for number in versions if number != 2)
    return msgspec.json.encode(Others(3, each))


def test_the_share_that_has_a_label_is_told_of_all_predictions_and_by_slice() -> None:
    spec = a_spec("zone")
    rows = [a_row(at, float(at % 2), "", 1.0, label=None if at % 2 and at < 30 else 0.0) for at in range(40)]

    told = slicing.asked("m", DataWindow(1, rows), FEATURES, spec)

    assert (told[0].name, told[0].value, told[0].rows) == (LABELLED, 25 / 40, 40)
    assert by_slice(told, "request.zone") == {"0": (1.0, 20), "1": (0.25, 20)}


def test_labels_that_come_late_are_the_next_revision_of_what_they_change_and_of_nothing_else() -> None:
    spec = a_spec("zone")
    rows = [a_row(at, float(at % 3), "", said=1.0, label=None if at % 3 == 0 else 0.0) for at in range(60)]
    window = a_window(rows, spec)
    whole = Reading(
        "performance", "m", 1, "mae", 1.0, window.covers.from_ms, window.covers.to_ms, 40, threshold=1.5
    )
    before = slicing.told(window, [whole, *slicing.measured("m", window, FEATURES, spec)], spec)
    assert before is not None
    assert slicing.corrected("m", before, rows, FEATURES, spec) == (before, [])

    rows = [row._replace(label=3.0) if row.at_ms % 6 == 0 else row for row in rows]
    after, changed = slicing.corrected("m", before, rows, FEATURES, spec)

    assert [(it.name, it.slice, it.value, it.rows, it.revision) for it in changed] == [
        ("mae", "", pytest.approx(1.2), 50, 1),
        ("mae", OTHER, 2.0, 10, 0),  # zone 0 had no label, and so was not told before
        ("rmse", "", pytest.approx(1.6**0.5), 50, 1),
        ("mean_error", "", pytest.approx(0.4), 50, 1),
        ("r2", "", pytest.approx(1 - 1.6 / 1.44), 50, 0),  # labels were all the same before
    ]
    assert changed[0] == replace(whole, value=changed[0].value, rows=50, revision=1)
    assert slicing.corrected("m", after, rows, FEATURES, spec) == (after, [])
    rows = [row._replace(label=0.0) if row.label is None else row for row in rows]
    assert [it.revision for it in slicing.corrected("m", after, rows, FEATURES, spec)[1]] == [2, 1, 2, 2, 1]


def test_figures_that_are_not_judged_are_told_of_all_rows_and_of_no_slice_and_are_not_clipped() -> None:
    spec = a_spec(rollout={"cap": 2, "judge": "rmse"})
    rows = [a_row(at, at % 2, "", said=1.0 + 9 * (at == 0), label=2.0 + at % 2) for at in range(10)]
    rows += [a_row(10, 1, "", said=1.0, label=None), a_row(11, 1, "", said=float("nan"), label=1.0)]

    found = slicing.measured("m", a_window(rows, spec), FEATURES, spec)

    told = {it.name: it for it in found if not it.slice}
    assert set(told) == {"mae", "mean_error", "mape", "r2"}, "the judged one is told by who judges it"
    assert told["mae"].value == pytest.approx((8 + 4 * 1 + 5 * 2) / 10), "a row counts more than the cap"
    assert told["mean_error"].value == pytest.approx((8 - 4 * 1 - 5 * 2) / 10)
    assert {(it.rows, it.threshold, it.feature, it.arm) for it in told.values()} == {(10, None, "", "")}
    assert {it.name for it in found if it.slice} == {"rmse"}


def test_probabilities_of_three_classes_are_told_where_a_version_gave_them() -> None:
    spec = a_spec(task="multiclass", rollout={}, label={"source": "truths", "on": "id", "value": "y", "within": "1h", "classes": [*"abc"]})  # fmt: skip
    sure = [np.eye(3)[at % 3].tobytes() for at in range(30)]
    rows = [
        a_row(at, 1, "", at % 3, label=at % 3)._replace(champion_probabilities=said if at else None)
        for at, said in enumerate(sure)
    ]

    told = {it.name: (it.value, it.rows) for it in slicing.measured("m", a_window(rows, spec), (), spec)}

    names = dict.fromkeys({"error_rate", "brier", "ece", "balanced_accuracy", "f1_macro"}, (0.0, 29))
    assert told == names | {"balanced_accuracy": (1.0, 29), "f1_macro": (1.0, 29)}


def test_a_window_whose_predictions_all_have_labels_needs_no_correction() -> None:
    spec = a_spec("zone")
    rows = [a_row(at, 1.0, "", 1.0) for at in range(10)]
    window = DataWindow(1, rows)

    assert slicing.told(window, slicing.asked("m", window, FEATURES, spec), spec) is None


def test_evidence_names_the_slices_to_which_most_of_a_rise_is_due() -> None:
    spec = a_spec()
    rng = np.random.default_rng(3)
    zones, pays = (
        rng.integers(0, 5, 4_000).astype(float),
        np.array(["cash", "card"], object)[rng.integers(0, 2, 4_000)],
    )
    usual = {
        "request.zone": slicing.usual(zones, np.full(4_000, 1.0), 10),
        "request.pay": slicing.usual(pays, np.full(4_000, 1.0), 10),
    }
    rows = [
        a_row(at, float(at % 5), "cash" if at % 2 else "card", said=4.0 if at % 5 == 3 else 1.0)
        for at in range(200)
    ]
    window = a_window(rows, spec)

    first, *_ = risen = slicing.risen(window, FEATURES, "mae", 1.0, usual)

    assert (first.feature, first.slice, first.rows) == ("request.zone", "3", 40)
    assert (first.usual, first.value, first.share) == (1.0, 4.0, pytest.approx(1.0))
    assert {each.slice for each in risen[1:]} == {"cash", "card"}
    calm = a_window([row._replace(champion=0.5) for row in rows], spec)
    assert slicing.risen(calm, FEATURES, "mae", 1.0, usual) == ()
    assert slicing.risen(window, FEATURES, "mae", 1.0, {}) == ()


def test_a_slice_of_no_feature_is_refused() -> None:
    with pytest.raises(ValueError, match="'colour' is no feature of the model"):
        a_spec("colour")
