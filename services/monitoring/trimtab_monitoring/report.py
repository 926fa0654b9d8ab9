"""The child process of a report: `python -m trimtab_monitoring.report FOLDER PARENT`.

It reads `window.npz`, `reference.arrow` and, of a prediction that is a class, the names
of `classes.json` from its folder and writes `report.html` and `report.json`: Evidently's
account of the window beside a sample of the reference. It decides nothing; what was decided, and at which levels, is in the drift event.
"""

import json
import os
import sys
from pathlib import Path

import numpy as np
import pandas as pd
from trimtab_core.drift import Column, missing
from trimtab_core.features import are_words
from trimtab_runtime.parent import die_with
from trimtab_runtime.reports import report

from trimtab_monitoring.config import NICE
from trimtab_monitoring.reference import read_reference

_SAID = "prediction"
_SAMPLE = 2_000
"""Reference rows that are shown at most, evenly spaced."""
_LEFT_OUT = frozenset({"loss", "event_time_ms", "key", "label"})


def main(folder: Path) -> int:
    """Make the report in `folder`."""
    window, reference = dict(np.load(folder / "window.npz")), read_reference(folder / "reference.arrow")
    shown = [name for name in reference if name not in _LEFT_OUT and _is_shown(window, reference, name)]
    if not shown:
        print("no column has values on both sides: there is nothing to show", file=sys.stderr)
        return 1
    classes = json.loads((folder / "classes.json").read_text())
    _write(folder, *(_frame(columns, shown, classes) for columns in (window, reference)))
    return 0


def _write(folder: Path, current: pd.DataFrame, reference: pd.DataFrame) -> None:
    made = report(
        ["DataDriftPreset", "DataSummaryPreset"],
        current,
        reference.iloc[_evenly(len(reference))],
        numerical_columns=[str(name) for name in reference.select_dtypes("number")],
        categorical_columns=[str(name) for name in reference.select_dtypes(exclude="number")],
    )
    made.save_html(str(folder / "report.html"))
    made.save_json(str(folder / "report.json"))


def _is_shown(window: dict[str, Column], reference: dict[str, Column], name: str) -> bool:
    """Return whether there is something to show of a column; of words Evidently would show each text as a category."""
    if name not in window or are_words(name):
        return False
    return all(not missing(columns[name]).all() for columns in (window, reference))


def _frame(columns: dict[str, Column], shown: list[str], classes: list[str]) -> pd.DataFrame:
    """Return the columns that are shown; of a prediction that is the number of one of `classes`, their names."""
    frame = pd.DataFrame({name: columns[name] for name in shown}).replace("", None)
    if classes and _SAID in shown:
        frame[_SAID] = frame[_SAID].map(lambda said: classes[int(said)] if said == said else None)
    return frame


def _evenly(rows: int) -> np.ndarray:
    return np.unique(np.linspace(0, rows - 1, min(rows, _SAMPLE)).astype(int))


if __name__ == "__main__":
    die_with(int(sys.argv[2]))
    os.nice(NICE)
    sys.exit(main(Path(sys.argv[1])))
