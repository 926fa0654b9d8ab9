"""The kinds of model that a trainer can fit, each in a file of its own.

A family sees numbers alone, NaN where one is missing, and deals with those itself; its
graph answers as it does. What it imports it imports when it is asked to fit.
"""

from collections.abc import Callable, Mapping
from importlib import import_module
from typing import Any, Final, Protocol

import numpy as np
from numpy.typing import NDArray
from trimtab_core.specs import ModelSpec

from trimtab_training.errors import RunFailed
from trimtab_training.inputs import Matrix as Matrix

Floats = NDArray[np.float64]


class Exported(Protocol):
    """A model that can be asked and let out, and is the same after it was pickled."""

    def predict(self, features: Any) -> Floats:
        """Return predictions: values or probabilities of the positive class [rows]; of a multiclass task probabilities [rows, classes]."""
        ...

    def to_onnx(self) -> Any:
        """Return the `onnx.ModelProto` that answers so: input `features` float32 [rows, features], output `prediction` [rows].

        Of a multiclass task `prediction` is the most probable class' index as float32, and a second output,
        `probabilities` float32 [rows, classes], follows it.
        """
        ...


class Fitted(Exported, Protocol):
    """A fitted model."""

    def unweighted(self, by_class: Floats) -> "Fitted":
        """Return the model with probabilities as of rows that were not weighted by their class.

        `by_class` [classes] is what each class' rows weighed in the fit, beside other weights.
        """
        ...


Fit = Callable[[ModelSpec, Matrix, Floats, Floats | None], Fitted]
"""Fits features [rows, features] to labels [rows], weighted [rows] where there are weights.

Labels of a multiclass task are indices into `spec.label.classes`; not every class has to be among them, and `predict`
still has a column for each. It prints its iterations (see `progress`), and raises `RunFailed` where the spec's parameters are none of its own.
"""

HOMES: Final[Mapping[str, str]] = {
    "linear": "scikit",
    "random_forest": "scikit",
    "hist_gradient_boosting": "scikit",
    "lightgbm": "lightgbm",
    "xgboost": "xgboost",
    "neural_network": "neural",
}
NEEDS: Final[Mapping[str, str]] = {"lightgbm": "lightgbm", "xgboost": "xgboost", "neural_network": "torch"}
"""What a family is made of, where a trainer can be without it; the extra that installs it has the same name."""


def of(spec: ModelSpec) -> Fit:
    """Return how the family that `spec` names is fitted.

    Raises:
        RunFailed: what it rests on is not installed here.
    """
    kind = spec.trainer.kind
    assert kind not in ("auto", "own"), "a search has settled it, or the trainer is a user's"
    try:
        fit: Fit = import_module(f"{__name__}.{HOMES[kind]}").fit
    except ModuleNotFoundError as error:
        if error.name is None or error.name != NEEDS.get(kind):
            raise
        raise RunFailed(
            f"trainer.kind {kind!r} needs {error.name}, which this trainer lacks: "
            f"pip install 'trimtab-trainer[{error.name}]' where it runs, or choose another kind"
        ) from error
    except OSError as error:
        raise RunFailed(
            f"trainer.kind {kind!r} cannot be loaded where this trainer runs ({error}): "
            "install what its library is linked to (Debian: apt-get install libgomp1), or choose another kind"
        ) from error
    return fit
