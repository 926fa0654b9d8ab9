"""How others measure drift, on the same columns: Evidently's tests, and statistics as alibi-detect has them.

`evidently` is the preset's own choice of a test and threshold for each column, asked without the report around it, which
takes seconds. The others give a window one number, larger for further, whose level is set by who asks.
"""

import warnings
from collections.abc import Mapping
from typing import Any

import lightgbm
import numpy as np
import pandas as pd
from drift_streams import Columns, Floats
from numpy.typing import NDArray
from scipy import stats
from sklearn.feature_extraction.text import CountVectorizer
from sklearn.metrics import roc_auc_score
from trimtab_core.drift import Kind

_SAMPLE = 5_000
_OF_MMD = 500
_FOLDS, _ROUNDS = 5, 30


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


class Classifier:
    """Boosted trees that are to tell a window from as many reference rows: their area under the ROC curve, out of five folds.

    alibi-detect's ClassifierDrift does it so with a model of scikit-learn's kind; LightGBM's trees are the fastest.
    """

    def __init__(self, reference: Columns) -> None:
        self._was = np.column_stack(list(reference.values()))
        self._rng = np.random.default_rng(0)

    def __call__(self, window: Columns) -> float:
        """Return the window's number."""
        now = np.column_stack(list(window.values()))
        was = self._was[self._rng.choice(len(self._was), len(now), replace=False)]
        rows, which = np.concatenate([was, now]), np.repeat([0, 1], len(now))
        fold, said = self._rng.permutation(2 * len(now)) % _FOLDS, np.empty(2 * len(now))
        asked = {"objective": "binary", "num_leaves": 8, "num_threads": 1, "verbose": -1}
        for each in range(_FOLDS):
            of = lightgbm.Dataset(rows[fold != each], which[fold != each])
            said[fold == each] = lightgbm.train(asked, of, _ROUNDS).predict(rows[fold == each])
        return float(roc_auc_score(which, said))


class Texts:
    """Evidently's measure of a text: the area under the ROC curve of a classifier that it fits to each window."""

    def __init__(self, reference: Columns) -> None:
        (text,) = reference.values()
        self._was = pd.Series(text[:: max(1, len(text) // _OF_MMD)])

    def __call__(self, window: Columns) -> float:
        """Return the window's number."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            from evidently.legacy.utils.data_drift_utils import calculate_text_drift_score

            (text,) = window.values()
            return float(calculate_text_drift_score(self._was, pd.Series(text), bootstrap=False)[0])


class Words:
    """A bag of the 200 commonest words: the chi-square of how many texts have each, or the greatest KS statistic of one."""

    def __init__(self, reference: Columns, *, greatest: bool = False) -> None:
        self._bag = CountVectorizer(max_features=200, binary=True, token_pattern=r"\w+")
        (text,) = reference.values()
        self._was = np.asarray(self._bag.fit_transform(text).mean(axis=0)).ravel()
        self._greatest = greatest

    def __call__(self, window: Columns) -> float:
        """Return the window's number."""
        (text,) = window.values()
        moved = np.asarray(self._bag.transform(text).mean(axis=0)).ravel() - self._was
        if self._greatest:
            return float(np.abs(moved).max())
        return float((np.square(moved) / (self._was * (1 - self._was))).sum())


def _squares(a: Floats, b: Floats) -> Floats:
    squares: Floats = np.maximum((a * a).sum(1)[:, None] + (b * b).sum(1) - 2 * a @ b.T, 0)
    return squares


def _sample(columns: Columns) -> Columns:
    return {name: x[:: max(1, len(x) // _SAMPLE)] for name, x in columns.items()}
