"""The child process of a report: `python -m trimtab_monitoring.report FOLDER PARENT`.

It reads `window.npz` and `reference.arrow` from its folder and writes `report.html`
and `report.json`: Evidently's account of the window beside a sample of the reference.
It decides nothing; what was decided, and at which levels, is in the drift event.
"""

import os
import sys
from pathlib import Path

import numpy as np
import pandas as pd
from trimtab_runtime.parent import die_with
from trimtab_runtime.reports import report

from trimtab_monitoring.config import NICE
from trimtab_monitoring.reference import Floats, read_reference

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
    _write(folder, *(_frame(columns, shown) for columns in (window, reference)))
    return 0


def _write(folder: Path, current: pd.DataFrame, reference: pd.DataFrame) -> None:
    made = report(
        ["DataDriftPreset", "DataSummaryPreset"],
        current,
        reference.iloc[_evenly(len(reference))],
        numerical_columns=list(reference.columns),
    )
    made.save_html(str(folder / "report.html"))
    made.save_json(str(folder / "report.json"))


def _is_shown(window: dict[str, Floats], reference: dict[str, Floats], name: str) -> bool:
    return name in window and all(np.isfinite(columns[name]).any() for columns in (window, reference))


def _frame(columns: dict[str, Floats], shown: list[str]) -> pd.DataFrame:
    return pd.DataFrame({name: columns[name] for name in shown})


def _evenly(rows: int) -> np.ndarray:
    return np.unique(np.linspace(0, rows - 1, min(rows, _SAMPLE)).astype(int))


if __name__ == "__main__":
    die_with(int(sys.argv[2]))
    os.nice(NICE)
    sys.exit(main(Path(sys.argv[1])))
