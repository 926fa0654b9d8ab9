"""Fits, and judges what was fitted by rows it has not seen.

Rows come in time order. The newest share is held out and judged as it would have been
lived: stretch by stretch, each by a fit to what was known before it began, so that
what has just changed is in the judgement and nothing that came later is. What is
shipped is then fitted to all rows: in a world that has just changed the newest are
the ones that matter, and the rollout judges it on live traffic before it may answer
alone.
"""

from collections.abc import Callable
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
from sklearn.utils._param_validation import InvalidParameterError
from trimtab_core.specs import ModelSpec

from trimtab_trainer.errors import RunFailed

Floats = NDArray[np.float64]
Task = Literal["regression", "binary"]
FOLDS = 3
STRETCHES = 3
FITS = STRETCHES + FOLDS + 1
"""Of a run: those that judge, and the one that ships."""


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


def held_out(rows: Rows, spec: ModelSpec) -> slice:
    """Return the places to judge by: the newest share."""
    return slice(round(len(rows) * (1 - spec.trainer.holdout)), len(rows))


def known(rows: Rows, place: int, spec: ModelSpec) -> slice:
    """Return the places whose labels had come when the row at `place` was asked."""
    asked_ms = rows.event_time_ms[place] - spec.label.within
    return slice(0, int(np.searchsorted(rows.event_time_ms, asked_ms, side="left")))


def fit(spec: ModelSpec, rows: Rows) -> Any:
    """Return a fitted scikit-learn estimator of the kind that `spec` names."""
    estimator = _estimator(spec)
    weights = _weights(rows.event_time_ms, spec.trainer.half_life)
    last = estimator.steps[-1][0] if hasattr(estimator, "steps") else None
    named = {} if weights is None else {f"{last}__sample_weight" if last else "sample_weight": weights}
    labels = rows.label if spec.task == "regression" else rows.label.astype(np.int64)
    return estimator.fit(rows.features, labels, **named)


Fit = Callable[[ModelSpec, Rows], Any]


def predict(task: Task, estimator: Any, features: NDArray[np.float32]) -> Floats:
    """Return predictions [rows]: values, or probabilities of the positive class."""
    if task == "regression":
        return np.asarray(estimator.predict(features), np.float64).reshape(-1)
    return np.asarray(estimator.predict_proba(features)[:, 1], np.float64)


def judged_predictions(spec: ModelSpec, rows: Rows, judged: slice, fit: Fit = fit) -> Floats:
    """Return for every judged row the prediction of a fit to what was known when its stretch began."""
    stretches = np.array_split(np.arange(judged.start, judged.stop), STRETCHES)
    said = [
        predict(spec.task, fit(spec, rows[known(rows, stretch[0], spec)]), rows.features[stretch])
        for stretch in stretches
        if stretch.size
    ]
    return np.concatenate(said)


def unseen_predictions(
    spec: ModelSpec, rows: Rows, judged: slice, predictions: Floats, fit: Fit = fit
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
        found[block] = predict(spec.task, fit(spec, rows[others]), rows.features[block])
    return found


def _estimator(spec: ModelSpec) -> Any:
    """Return the estimator, unfitted; it prints its iterations (see `progress`)."""
    trainer, regression = spec.trainer, spec.task == "regression"
    kind: Any
    match trainer.kind:
        case "hist_gradient_boosting":
            kind = HistGradientBoostingRegressor if regression else HistGradientBoostingClassifier
            # What is judged by the absolute error is fitted to it: one monster label bends no tree then.
            loss = {"loss": "absolute_error"} if spec.judged_by == "mae" else {}
            return _made(kind, spec, seed=trainer.seed, early_stopping=False, verbose=2, **loss)
        case "random_forest":
            kind = RandomForestRegressor if regression else RandomForestClassifier
            return make_pipeline(
                SimpleImputer(keep_empty_features=True), _made(kind, spec, seed=trainer.seed, verbose=2)
            )
        case "linear":
            model = _made(Ridge, spec) if regression else _made(LogisticRegression, spec, seed=trainer.seed)
            return make_pipeline(SimpleImputer(keep_empty_features=True), StandardScaler(), model)


def _made(kind: Any, spec: ModelSpec, *, seed: int | None = None, **ours: Any) -> Any:
    """Return an estimator with the spec's parameters, which win over `ours`.

    Raises:
        RunFailed: it has no such parameter, or the value is none that it takes.
    """
    known, given = kind().get_params(), spec.trainer.parameters
    for name in given:
        if name not in known or name == "random_state":
            rest = ", ".join(sorted(known.keys() - {"random_state"}))
            raise RunFailed(
                f"trainer.parameters.{name} is no parameter of {kind.__name__} here: name one of {rest}"
            )
    theirs = {name: _typed(kind, name, value) for name, value in given.items()}
    return kind(**({} if seed is None else {"random_state": seed}), **(ours | theirs))


def _typed(kind: Any, name: str, value: Any) -> Any:
    """Return a parameter as scikit-learn takes it.

    A spec travels as JSON, in which 200 and 200.0 are one number: it is an integer where a float will not do.
    """
    tried = [value, int(value)] if isinstance(value, float) and value.is_integer() else [value]
    for each in tried:
        try:
            kind(**{name: each})._validate_params()
        except InvalidParameterError as error:
            refusal = error
        else:
            return each
    raise RunFailed(f"trainer.parameters.{name}: {refusal}") from refusal


def _weights(event_time_ms: NDArray[np.int64], half_life_ms: int | None) -> Floats | None:
    if half_life_ms is None:
        return None
    age = (event_time_ms[-1] - event_time_ms) / half_life_ms
    weights: Floats = np.exp2(-age)
    weights /= weights.mean()
    return weights
