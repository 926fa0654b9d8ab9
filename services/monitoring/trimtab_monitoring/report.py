"""The child process of a report: `python -m trimtab_monitoring.report FOLDER PARENT`.

It reads `window.npz`, `reference.arrow` and, in `about.json`, the task and the names of classes from its folder and writes
`report.html` and `report.json`: Evidently's account of the window beside a sample of the reference, and where both have
labels, of how well they were told. It decides nothing; what was decided, and at which levels, is in the drift event.
"""

import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from trimtab_core.drift import Column, missing
from trimtab_core.features import are_words
from trimtab_core.losses import Task
from trimtab_runtime.parent import die_with
from trimtab_runtime.reports import LABEL, PREDICTION, report

from trimtab_monitoring.config import NICE
from trimtab_monitoring.reference import read_reference

_SAMPLE = 2_000
"""Reference rows that are shown at most, evenly spaced."""
_LEFT_OUT = frozenset({"loss", "event_time_ms", "key"})
_YES_OR_NO = ("0", "1")


def main(folder: Path) -> int:
    """Make the report in `folder`."""
    window, reference = (
        dict(np.load(folder / "window.npz")),
        _sampled(read_reference(folder / "reference.arrow")),
    )
    shown = [name for name in reference if name not in _LEFT_OUT and _is_shown(window, reference, name)]
    if not shown:
        print("no column has values on both sides: there is nothing to show", file=sys.stderr)
        return 1
    about = json.loads((folder / "about.json").read_text())
    task, classes = about["task"], about["classes"] or _YES_OR_NO
    current, before = (_frame(columns, shown, task, classes) for columns in (window, reference))
    scored = task if all(_can_be_scored(frame) for frame in (current, before)) else None
    try:
        _write(folder, current, before, scored, classes[-1])
    except Exception as error:  # Evidently cannot score all that there is, and says so in many ways
        if scored is None:
            raise
        print(f"labels are not scored: {type(error).__name__}: {error}", file=sys.stderr)
        _write(folder, current, before, None, classes[-1])
    return 0


def _write(
    folder: Path, current: pd.DataFrame, reference: pd.DataFrame, scored: Task | None, positive: str
) -> None:
    numbers = [str(name) for name in reference.select_dtypes("number")]
    made = report(
        ["DataDriftPreset", "DataSummaryPreset"],
        current,
        reference,
        scored=scored,
        positive=positive,
        numerical_columns=numbers,
        categorical_columns=[str(name) for name in reference if name not in numbers],
    )
    made.save_html(str(folder / "report.html"))
    made.save_json(str(folder / "report.json"))


def _is_shown(window: dict[str, Column], reference: dict[str, Column], name: str) -> bool:
    """Return whether there is something to show of a column; of words Evidently would show each text as a category."""
    if name not in window or are_words(name):
        return False
    return all(not missing(columns[name]).all() for columns in (window, reference))


def _frame(
    columns: dict[str, Column], shown: list[str], task: Task | None, classes: Sequence[str]
) -> pd.DataFrame:
    """Return the columns that are shown, labels where there is a prediction; of a number of one of `classes`, their names."""
    frame = pd.DataFrame({name: columns[name] for name in shown}).replace("", None)
    named = {"binary": (LABEL,), "multiclass": (LABEL, PREDICTION)}.get(task or "", ())
    for name in set(named) & set(shown):
        frame[name] = frame[name].map(dict(enumerate(classes)).get)
    if {LABEL, PREDICTION} <= set(shown):
        frame[LABEL] = frame[LABEL].where(frame[PREDICTION].notna())
    return frame


def _can_be_scored(frame: pd.DataFrame) -> bool:
    """Return whether there are predictions with labels, and those not all alike."""
    return {LABEL, PREDICTION} <= set(frame) and frame[LABEL].nunique() > 1


def _sampled(reference: dict[str, Column]) -> dict[str, Column]:
    rows = min((len(column) for column in reference.values()), default=0)
    at = np.unique(np.linspace(0, rows - 1, min(rows, _SAMPLE)).astype(int))
    return {name: column[at] for name, column in reference.items()}


if __name__ == "__main__":
    die_with(int(sys.argv[2]))
    os.nice(NICE)
    sys.exit(main(Path(sys.argv[1])))
