"""How others measure drift, on the same columns: Evidently's tests, and statistics as alibi-detect has them.

`evidently` is the preset's own choice of a test and threshold for each column, asked without the report around it, which
takes seconds. The others give a window one number, larger for further, whose level is set by who asks.
"""

import warnings
from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
from drift_streams import Columns, Floats
from numpy.typing import NDArray
from scipy import stats
from trimtab_core.drift import Kind

_SAMPLE = 5_000
_OF_MMD = 500


def evidently(reference: Columns, window: Columns, kinds: Mapping[str, Kind]) -> list[bool]:
    """Return of each feature that is no text whether Evidently's preset calls it drifted."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from evidently.legacy.calculations.stattests import get_stattest
        from evidently.legacy.core import ColumnType

        of: dict[str, Any] = {"numeric": ColumnType.Numerical, "categorical": ColumnType.Categorical}
        told = []
        for name, kind in kinds.items():
            if kind in of:
                was, now = (pd.Series(each[name]).dropna() for each in (reference, window))
                was = was.iloc[:: max(1, len(was) // _SAMPLE)]
                test = get_stattest(was, now, of[kind], None)
                told.append(bool(test(was, now, of[kind], None).drifted))
        return told


class Wasserstein:
    """The greatest Wasserstein distance of a feature in standard deviations: Evidently's for more than 1,000 reference rows."""

    def __init__(self, reference: Columns) -> None:
        self._was = _sample(reference)
        self._spread = {name: float(np.std(x)) for name, x in self._was.items()}

    def __call__(self, window: Columns) -> float:
        """Return the window's number."""
        return max(
            float(stats.wasserstein_distance(x, window[name])) / self._spread[name]
            for name, x in self._was.items()
        )


class Psi:
    """The greatest population stability index of a feature, over thirty bins of equal width as Evidently has them."""

    def __init__(self, reference: Columns) -> None:
        self._edges = {name: np.histogram_bin_edges(x, 30)[1:-1] for name, x in reference.items()}
        self._was = {name: self._shares(name, x) for name, x in reference.items()}

    def _shares(self, name: str, x: NDArray[Any]) -> Floats:
        counts = np.bincount(np.searchsorted(self._edges[name], x), minlength=30)
        shares: Floats = np.maximum(counts / counts.sum(), 1e-4)
        return shares

    def __call__(self, window: Columns) -> float:
        """Return the window's number."""
        found = {name: self._shares(name, x) for name, x in window.items()}
        return max(
            float(np.sum((now - self._was[name]) * np.log(now / self._was[name])))
            for name, now in found.items()
        )


class Ks:
    """The greatest Kolmogorov-Smirnov statistic of a feature, as alibi-detect's KSDrift takes the least p."""

    def __init__(self, reference: Columns) -> None:
        self._was = {name: np.sort(x) for name, x in reference.items()}

    def __call__(self, window: Columns) -> float:
        """Return the window's number."""
        return max(self._one(self._was[name], np.sort(x)) for name, x in window.items())

    @staticmethod
    def _one(was: Floats, now: Floats) -> float:
        both = np.concatenate([was, now])
        shares = [np.searchsorted(x, both, side="right") / len(x) for x in (was, now)]
        return float(np.abs(shares[0] - shares[1]).max())


class Mmd:
    """The maximum mean discrepancy of all features together, with alibi-detect's Gaussian kernel of median width."""

    def __init__(self, reference: Columns) -> None:
        whole = np.column_stack(list(reference.values()))
        self._middle, self._spread = whole.mean(axis=0), whole.std(axis=0)
        self._was = self._scaled(whole[:: max(1, len(whole) // _OF_MMD)])
        self._width = float(np.median(_squares(self._was, self._was)))
        self._within = float(self._kernel(self._was, self._was).mean())

    def _scaled(self, rows: Floats) -> Floats:
        scaled: Floats = (rows - self._middle) / self._spread
        return scaled

    def _kernel(self, a: Floats, b: Floats) -> Floats:
        near: Floats = np.exp(-_squares(a, b) / self._width)
        return near

    def __call__(self, window: Columns) -> float:
        """Return the window's number."""
        now = self._scaled(np.column_stack(list(window.values())))
        return (
            self._within
            + float(self._kernel(now, now).mean())
            - 2 * float(self._kernel(self._was, now).mean())
        )


def _squares(a: Floats, b: Floats) -> Floats:
    squares: Floats = np.maximum((a * a).sum(1)[:, None] + (b * b).sum(1) - 2 * a @ b.T, 0)
    return squares


def _sample(columns: Columns) -> Columns:
    return {name: x[:: max(1, len(x) // _SAMPLE)] for name, x in columns.items()}
