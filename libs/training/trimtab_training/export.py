"""From a fitted estimator to an ONNX graph with the preprocessing inside.

The graph takes `features` float32 [rows, features] and its first output,
`prediction` [rows], is the value or the probability of the positive class; of more
classes than two it is the number of the most probable, and `probabilities`
[rows, classes] comes after it. A graph whose answers are not the framework's is not let
out. One that takes texts takes `texts` string [rows, texts] too.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, compose, helper, numpy_helper
from trimtab_runtime.ort import onnxruntime

from trimtab_training.errors import RunFailed
from trimtab_training.inputs import Inputs, Matrix, given

OPSET = 18
_MOST_CHECKED = 20_000
TOLERANCE = 1e-3
"""Largest difference that is taken for rounding, relative to the spread of the predictions."""
_DIGITS = 4 * float(np.finfo(np.float32).eps)
"""Or relative to the largest of them: a graph answers in float32, and predictions may be all alike, or far from zero."""


def of_features(model: Any, *, probabilities: bool) -> Any:
    """Return a converter's graph with our names: its one input, and of its last output the value or the positive class."""
    graph, last = model.graph, _named(model.graph)
    if probabilities:
        graph.initializer.append(helper.make_tensor("positive", TensorProto.INT64, [1], [1]))
        graph.node.append(helper.make_node("Gather", [last, "positive"], ["chosen"], axis=1))
        last = "chosen"
    graph.initializer.append(helper.make_tensor("flat", TensorProto.INT64, [1], [-1]))
    graph.node.append(helper.make_node("Reshape", [last, "flat"], ["prediction"]))
    del graph.output[:]
    graph.output.append(helper.make_tensor_value_info("prediction", TensorProto.FLOAT, [None]))
    return model


def of_classes(model: Any, *, seen: Sequence[int], classes: int) -> Any:
    """Return a converter's graph with our names, whose last output is the probabilities [rows, seen] of the classes `seen`.

    Each gets its own of `classes` columns; a class that was not seen has no chance.
    """
    compose.add_prefix_graph(model.graph, "fitted_", inplace=True)  # their names may be ours
    probabilities_of(model.graph, _named(model.graph), seen, classes)
    return model


def probabilities_of(graph: Any, last: str, seen: Sequence[int], classes: int) -> None:
    """Let a graph answer as one of classes does, by its tensor `last`, the probabilities [rows, seen] of the classes `seen`."""
    own = np.zeros((len(seen), classes), np.float32)
    own[np.arange(len(seen)), list(seen)] = 1
    graph.initializer.append(numpy_helper.from_array(own, "own_columns"))
    graph.node.extend(
        [
            helper.make_node("MatMul", [last, "own_columns"], ["probabilities"]),
            helper.make_node("ArgMax", ["probabilities"], ["most_probable"], axis=1, keepdims=0),
            helper.make_node("Cast", ["most_probable"], ["prediction"], to=TensorProto.FLOAT),
        ]
    )
    del graph.output[:]
    graph.output.append(helper.make_tensor_value_info("prediction", TensorProto.FLOAT, [None]))
    graph.output.append(helper.make_tensor_value_info("probabilities", TensorProto.FLOAT, [None, classes]))


def _named(graph: Any) -> str:
    """Give a converter's graph our name for its one input, and return its name for its last output."""
    theirs = graph.input[0].name
    for node in graph.node:
        node.input[:] = ["features" if name == theirs else name for name in node.input]
    graph.input[0].name = "features"
    return str(graph.output[-1].name)


def serialised(model: Any) -> bytes:
    """Return the bytes of a model that is well formed."""
    onnx.checker.check_model(model)
    return bytes(model.SerializeToString())


def session(model: bytes) -> Any:
    """Return a serialised model, ready to be asked on one thread."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])


def answers(session: Any, features: Matrix | Inputs) -> NDArray[np.float64]:
    """Return the predictions [rows] of a model that is ready; of more classes than two their probabilities [rows, classes]."""
    if "probabilities" in [output.name for output in session.get_outputs()]:
        return np.asarray(session.run(["probabilities"], given(features))[0], np.float64)
    return np.asarray(session.run(None, given(features))[0], np.float64).reshape(-1)


def run(model: bytes, features: Matrix | Inputs) -> NDArray[np.float64]:
    """Return the predictions of a serialised model, as `answers` does."""
    return answers(session(model), features)


def to_check(features: Matrix | Inputs) -> Matrix | Inputs:
    """Return the rows to check a graph by: at most 20,000, evenly spread, which takes little beside a fit to many more."""
    return features[np.linspace(0, len(features) - 1, min(len(features), _MOST_CHECKED)).astype(np.int64)]


def check(model: bytes, features: Matrix | Inputs, expected: NDArray[np.float64]) -> Any:
    """Hold the model's answers against the framework's, and return it, ready to be asked.

    Raises:
        RunFailed: they differ by more than rounding.
    """
    asked = session(model)
    difference = np.abs(answers(asked, features) - expected)
    limit = max(TOLERANCE * float(np.std(expected)), _DIGITS * float(np.abs(expected).max()), 1e-9)
    # What is no number is wrong too.
    wrong = int((~(difference <= limit)).reshape(len(expected), -1).any(axis=1).sum())
    if wrong:
        worst = float(difference.max())
        raise RunFailed(
            f"the exported model differs from the fitted one on {wrong} of {len(expected)} rows, by up to {worst:.3g}: "
            "it would serve other answers than were judged, so it is not let out"
        )
    return asked
