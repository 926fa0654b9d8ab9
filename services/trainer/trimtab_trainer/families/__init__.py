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

Floats = NDArray[np.float64]
Matrix = NDArray[np.float32]


class Fitted(Protocol):
    """A fitted model."""

    def predict(self, features: Matrix) -> Floats:
        """Return predictions [rows]: values, or probabilities of the positive class."""
        ...

    def to_onnx(self) -> Any:
        """Return the `onnx.ModelProto` that answers so: input `features` float32 [rows, features], output `prediction` [rows]."""
        ...


Fit = Callable[[ModelSpec, Matrix, Floats, Floats | None], Fitted]
"""Fits features [rows, features] to labels [rows], weighted [rows] where there are weights.

It prints its iterations (see `progress`), and raises `RunFailed` where the spec's parameters are none of its own.
"""

_HOMES = {"linear": "scikit", "random_forest": "scikit", "hist_gradient_boosting": "scikit", "own": "own"}


def of(spec: ModelSpec) -> Fit:
    """Return how the family that `spec` names is fitted."""
    fit: Fit = import_module(f"{__name__}.{_HOMES[spec.trainer.kind]}").fit
    return fit
