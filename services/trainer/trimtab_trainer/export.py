"""From a fitted estimator to an ONNX graph with the preprocessing inside.

The graph takes `features` float32 [rows, features] and its first output,
`prediction` [rows], is the value or the probability of the positive class. A graph
whose answers are not the framework's is not let out.
"""

from typing import Any

import numpy as np
import onnx
import onnxruntime
from numpy.typing import NDArray
from onnx import TensorProto, helper

from trimtab_trainer.errors import RunFailed

OPSET = 18
TOLERANCE = 1e-3
"""Largest difference that is taken for rounding, relative to the spread of the predictions."""
_DIGITS = 4 * float(np.finfo(np.float32).eps)
"""Or relative to the largest of them: a graph answers in float32, and predictions may be all alike, or far from zero."""


def of_features(model: Any, *, probabilities: bool) -> Any:
    """Return a converter's graph with our names: its one input, and of its last output the value or the positive class."""
    graph = model.graph
    theirs, last = graph.input[0].name, graph.output[-1].name
    for node in graph.node:
        node.input[:] = ["features" if name == theirs else name for name in node.input]
    graph.input[0].name = "features"
    if probabilities:
        graph.initializer.append(helper.make_tensor("positive", TensorProto.INT64, [1], [1]))
        graph.node.append(helper.make_node("Gather", [last, "positive"], ["chosen"], axis=1))
        last = "chosen"
    graph.initializer.append(helper.make_tensor("flat", TensorProto.INT64, [1], [-1]))
    graph.node.append(helper.make_node("Reshape", [last, "flat"], ["prediction"]))
    del graph.output[:]
    graph.output.append(helper.make_tensor_value_info("prediction", TensorProto.FLOAT, [None]))
    return model


def serialised(model: Any) -> bytes:
    """Return the bytes of a model that is well formed."""
    onnx.checker.check_model(model)
    return bytes(model.SerializeToString())


def session(model: bytes) -> Any:
    """Return a serialised model, ready to be asked on one thread."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])


def answers(session: Any, features: NDArray[np.float32]) -> NDArray[np.float64]:
    """Return the predictions [rows] of a model that is ready."""
    return np.asarray(session.run(None, {"features": features})[0], np.float64).reshape(-1)


def run(model: bytes, features: NDArray[np.float32]) -> NDArray[np.float64]:
    """Return the predictions [rows] of a serialised model."""
    return answers(session(model), features)


def check(model: bytes, features: NDArray[np.float32], expected: NDArray[np.float64]) -> None:
    """Hold the model's answers against the framework's.

    Raises:
        RunFailed: they differ by more than rounding.
    """
    difference = np.abs(run(model, features) - expected)
    limit = max(TOLERANCE * float(np.std(expected)), _DIGITS * float(np.abs(expected).max()), 1e-9)
    wrong = int((~(difference <= limit)).sum())  # what is no number is wrong too
    if wrong:
        worst = float(difference.max())
        raise RunFailed(
            f"the exported model differs from the fitted one on {wrong} of {len(expected)} rows, by up to {worst:.3g}: "
            "it would serve other answers than were judged, so it is not let out"
        )
