"""Linear models, random forests and histogram boosting, by scikit-learn."""

import warnings
from dataclasses import dataclass
from typing import Any

import numpy as np
from skl2onnx import to_onnx
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

from trimtab_training import export
from trimtab_training.errors import RunFailed
from trimtab_training.families import Floats, Matrix


def fit(spec: ModelSpec, features: Matrix, labels: Floats, weights: Floats | None) -> "Estimator":
    """Fit the estimator that `spec` names."""
    estimator, regression = _estimator(spec), spec.task == "regression"
    if not regression and len(labels) and (labels == labels[0]).all():
        raise RunFailed(
            f"all of the {len(labels)} oldest rows have one label, {_shown(spec, labels[0])}, so there is nothing to tell apart: "
            "widen trainer.window"
        )
    last = estimator.steps[-1][0] if hasattr(estimator, "steps") else None
    named = {} if weights is None else {f"{last}__sample_weight" if last else "sample_weight": weights}
    fitted = estimator.fit(features, labels if regression else labels.astype(np.int64), **named)
    return Estimator(
        fitted, regression=regression, classes=len(spec.label.classes) if spec.task == "multiclass" else 0
    )


def _shown(spec: ModelSpec, label: float) -> str:
    return spec.label.classes[int(label)] if spec.label.classes else f"{label:g}"


@dataclass(frozen=True, slots=True)
class Estimator:
    """A fitted estimator."""

    estimator: Any
    regression: bool
    classes: int = 0
    """Of a multiclass task: how many there are, seen or not."""

    def predict(self, features: Matrix) -> Floats:
        """Return predictions [rows]: values, or probabilities of the positive class; or of each class, [rows, classes]."""
        if self.regression:
            return np.asarray(self.estimator.predict(features), np.float64).reshape(-1)
        said = np.asarray(self.estimator.predict_proba(features), np.float64)
        if not self.classes:
            return said[:, 1]
        found = np.zeros((len(said), self.classes))
        found[:, self.estimator.classes_] = said
        return found

    def to_onnx(self) -> Any:
        """Return the estimator as a graph."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            options = None if self.regression else {id(self.estimator): {"zipmap": False}}
            sample = np.zeros((1, self.estimator.n_features_in_), np.float32)
            model = to_onnx(self.estimator, sample, options=options, target_opset=export.OPSET)
        if self.classes:
            return export.of_classes(model, seen=self.estimator.classes_.tolist(), classes=self.classes)
        return export.of_features(model, probabilities=not self.regression)

    def unweighted(self, by_class: Floats) -> "Estimator":
        """Return the estimator with each class' weight in the fit taken out: of the log-odds, or of each leaf's shares."""
        model = self.estimator[-1] if hasattr(self.estimator, "steps") else self.estimator
        by = by_class[model.classes_]
        if isinstance(model, RandomForestClassifier):
            for tree in model.estimators_:
                shares = tree.tree_.value
                shares /= by
                shares /= shares.sum(axis=2, keepdims=True)
            return self
        start = model.intercept_ if isinstance(model, LogisticRegression) else model._baseline_prediction
        start -= np.log(by[1:] / by[:1]) if len(by) == 2 else np.log(by)
        return self


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
