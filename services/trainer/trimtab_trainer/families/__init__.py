"""The kinds of model that a trainer can fit, each in a file of its own.

A family sees numbers alone, NaN where one is missing, and deals with those itself; its
graph answers as it does. What it imports it imports when it is asked to fit.
"""

from collections.abc import Callable
from importlib import import_module
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray
from trimtab_core.specs import ModelSpec

from trimtab_trainer.inputs import Matrix as Matrix

Floats = NDArray[np.float64]


class Fitted(Protocol):
    """A fitted model."""

    def predict(self, features: Matrix) -> Floats:
        """Return predictions: values or probabilities of the positive class [rows]; of a multiclass task probabilities [rows, classes]."""
        ...

    def to_onnx(self) -> Any:
        """Return the `onnx.ModelProto` that answers so: input `features` float32 [rows, features], output `prediction` [rows].

        Of a multiclass task `prediction` is the most probable class' index as float32, and a second output,
        `probabilities` float32 [rows, classes], follows it.
        """
        ...


Fit = Callable[[ModelSpec, Matrix, Floats, Floats | None], Fitted]
"""Fits features [rows, features] to labels [rows], weighted [rows] where there are weights.

Labels of a multiclass task are indices into `spec.label.classes`; not every class has to be among them, and `predict`
still has a column for each. It prints its iterations (see `progress`), and raises `RunFailed` where the spec's parameters are none of its own.
"""

_HOMES = {"linear": "scikit", "random_forest": "scikit", "hist_gradient_boosting": "scikit"}


def of(spec: ModelSpec) -> Fit:
    """Return how the family that `spec` names is fitted."""
    fit: Fit = import_module(f"{__name__}.{_HOMES[spec.trainer.kind]}").fit
    return fit
