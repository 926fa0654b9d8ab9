"""Fits, and judges what was fitted by rows it has not seen.

Rows come in time order. The newest share is held out, with a gap of the label's
delay before it, so that nothing the fit saw was known later than the first row it is
judged by. What is shipped is then fitted to all rows: in a world that has just
changed the newest are the ones that matter, and the rollout judges it on live
traffic before it may answer alone.
"""

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from sklearn.ensemble import (
    HistGradientBoostingClassifier,
    HistGradientBoostingRegressor,
    RandomForestClassifier,
    RandomForestRegressor,
)
from sklearn.impute import SimpleImputer
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from trimtab_core.specs import TrainerSpec

Floats = NDArray[np.float64]
Task = Literal["regression", "binary"]
FOLDS = 3


@dataclass(frozen=True, slots=True)
class Rows:
    """Labelled rows in time order: features float32 [rows, features], the others [rows]."""

    features: NDArray[np.float32]
    label: Floats
    event_time_ms: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.label)

    def __getitem__(self, places: Any) -> "Rows":
        return Rows(self.features[places], self.label[places], self.event_time_ms[places])


def split(rows: Rows, holdout: float, gap_ms: int) -> tuple[slice, slice]:
    """Return the places to fit on and the places to judge by: the newest share, and what was known before it began."""
    first = round(len(rows) * (1 - holdout))
    known = int(np.searchsorted(rows.event_time_ms, rows.event_time_ms[first] - gap_ms, side="left"))
    return slice(0, known), slice(first, len(rows))


def fit(task: Task, spec: TrainerSpec, rows: Rows) -> Any:
    """Return a fitted scikit-learn estimator of the kind that `spec` names."""
    estimator = _estimator(task, spec)
    weights = _weights(rows.event_time_ms, spec.half_life)
    last = estimator.steps[-1][0] if hasattr(estimator, "steps") else None
    named = {} if weights is None else {f"{last}__sample_weight" if last else "sample_weight": weights}
    labels = rows.label if task == "regression" else rows.label.astype(np.int64)
    return estimator.fit(rows.features, labels, **named)


def predict(task: Task, estimator: Any, features: NDArray[np.float32]) -> Floats:
    """Return predictions [rows]: values, or probabilities of the positive class."""
    if task == "regression":
        return np.asarray(estimator.predict(features), np.float64).reshape(-1)
    return np.asarray(estimator.predict_proba(features)[:, 1], np.float64)


def unseen_predictions(
    task: Task, spec: TrainerSpec, rows: Rows, judged: slice, predictions: Floats
) -> Floats:
    """Return for every row a prediction by a fit that has not seen it.

    The judged rows have theirs; the older ones are cut into blocks in time, each
    predicted by a fit to the other blocks, so that the loss of the reference is that
    of a model at work and not of one that knows the answers.
    """
    found = np.empty(len(rows))
    found[judged] = predictions
    older = np.arange(judged.start)
    for block in np.array_split(older, FOLDS):
        others = np.setdiff1d(older, block)
        found[block] = predict(task, fit(task, spec, rows[others]), rows.features[block])
    return found


def _estimator(task: Task, spec: TrainerSpec) -> Any:
    regression, chosen = task == "regression", dict(spec.parameters)
    match spec.kind:
        case "hist_gradient_boosting":
            kind = HistGradientBoostingRegressor if regression else HistGradientBoostingClassifier
            return kind(random_state=spec.seed, early_stopping=False, **chosen)
        case "random_forest":
            kind = RandomForestRegressor if regression else RandomForestClassifier
            return make_pipeline(
                SimpleImputer(keep_empty_features=True), kind(random_state=spec.seed, **chosen)
            )
        case "linear":
            model = Ridge(**chosen) if regression else LogisticRegression(random_state=spec.seed, **chosen)
            return make_pipeline(SimpleImputer(keep_empty_features=True), StandardScaler(), model)


def _weights(event_time_ms: NDArray[np.int64], half_life_ms: int | None) -> Floats | None:
    if half_life_ms is None:
        return None
    age = (event_time_ms[-1] - event_time_ms) / half_life_ms
    weights: Floats = np.exp2(-age)
    weights /= weights.mean()
    return weights
