"""Models that answer by margins: a value, log-odds, or one logit a class.

Boosted trees and networks do. A margin is moved exactly, where a probability near 1 has
no digits left to be moved by: so what was centred or weighted for the fit is put back here.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from onnx import TensorProto, helper, numpy_helper
from trimtab_core.losses import Task
from trimtab_core.specs import ModelSpec

from trimtab_training import export
from trimtab_training.families import Floats, Matrix

_IR = 9
_RAREST = 1e-6


@dataclass(frozen=True, slots=True)
class Part:
    """The nodes of a graph that lead from `features` float32 to `margins` float32 [rows, outputs]."""

    nodes: Sequence[Any]
    constants: Sequence[Any] = ()


@dataclass(frozen=True, slots=True)
class Margins:
    """A fitted model."""

    task: Task
    features: int
    said: Callable[[Matrix], Floats]
    """What the library answers: margins [rows, outputs], before `moved`."""
    part: Callable[[], Part]
    """The same as a graph."""
    moved: Floats = field(default_factory=lambda: np.zeros(1))
    """What is added to the margins [outputs]."""

    def predict(self, features: Matrix) -> Floats:
        """Return values or probabilities of the positive class [rows], or probabilities [rows, classes]."""
        margins = self.said(features) + self.moved
        if self.task == "regression":
            return np.asarray(margins[:, 0])
        if self.task == "binary":
            return np.asarray(_sigmoid(margins[:, 0]))
        grown = np.exp(margins - margins.max(axis=1, keepdims=True))
        return np.asarray(grown / grown.sum(axis=1, keepdims=True))

    def unweighted(self, by_class: Floats) -> "Margins":
        """Return the model with each class' weight in the fit taken out of its log-odds."""
        by = np.log(by_class)
        by = by[1:] - by[:1] if self.task == "binary" else by
        return replace(self, moved=self.moved - by)

    def to_onnx(self) -> Any:
        """Return the model as a graph."""
        part = self.part()
        nodes = [*part.nodes, helper.make_node("Add", ["margins", "moved"], ["answers"]), *_ends(self.task)]
        constants = [*part.constants, numpy_helper.from_array(self.moved.astype(np.float32), "moved")]
        shapes: dict[str, list[Any]] = {"prediction": [None]}
        if self.task == "multiclass":
            shapes["probabilities"] = [None, len(self.moved)]
        else:
            constants.append(numpy_helper.from_array(np.array([-1], np.int64), "flat"))
        graph = helper.make_graph(
            nodes,
            "model",
            [helper.make_tensor_value_info("features", TensorProto.FLOAT, [None, self.features])],
            [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in shapes.items()],
            constants,
        )
        opsets = [helper.make_opsetid("", export.OPSET), helper.make_opsetid("ai.onnx.ml", 3)]
        return helper.make_model(graph, opset_imports=opsets, ir_version=_IR)


def centre(spec: ModelSpec, labels: Floats) -> float:
    """Return what a regression's labels are centred by: a library that adds in float32 has digits left for them then.

    It is the median, for a monster label would take the mean to where the others have none.
    """
    return float(np.median(labels)) if spec.task == "regression" else 0.0


def outputs(spec: ModelSpec) -> int:
    """Return how many margins a row has."""
    return len(spec.label.classes) if spec.task == "multiclass" else 1


def log_odds(labels: Floats, weights: Floats | None, width: int) -> Floats:
    """Return the margins [outputs] that say how frequent each class is, for a fit to start from."""
    amounts = np.bincount(labels.astype(np.int64), weights, max(width, 2))
    logs = np.log(np.clip(amounts / amounts.sum(), _RAREST, 1.0))
    return np.asarray(logs[1:] - logs[:1] if width == 1 else logs)


def _sigmoid(margins: Floats) -> Floats:
    falling = np.exp(-np.abs(margins))
    return np.where(margins >= 0, 1 / (1 + falling), falling / (1 + falling))


def _ends(task: Task) -> list[Any]:
    """Return the nodes from `answers` [rows, outputs] to what the task is asked for."""
    make = helper.make_node
    if task == "regression":
        return [make("Reshape", ["answers", "flat"], ["prediction"])]
    if task == "binary":
        return [
            make("Sigmoid", ["answers"], ["probability"]),
            make("Reshape", ["probability", "flat"], ["prediction"]),
        ]
    return [
        make("Softmax", ["answers"], ["probabilities"], axis=1),
        make("ArgMax", ["probabilities"], ["place"], axis=1, keepdims=0),
        make("Cast", ["place"], ["prediction"], to=TensorProto.FLOAT),
    ]
