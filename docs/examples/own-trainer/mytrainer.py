"""A trainer of one's own: least squares, with the mean in the place of what is missing."""

from typing import Any

import numpy as np
from onnx import TensorProto, helper, numpy_helper


class Trainer:
    """What `trainer.entry_point` names."""

    def fit(self, rows: Any, *, parameters: dict[str, Any], seed: int) -> "Fitted":
        """Fit to labelled rows."""
        mean = np.nan_to_num(np.nanmean(rows.features, axis=0))
        x = np.where(np.isnan(rows.features), mean, rows.features).astype(np.float64)
        x = np.column_stack([x, np.ones(len(rows))])
        weight = np.ones(len(rows)) if rows.weight is None else rows.weight
        penalty = float(parameters.get("penalty", 1e-6)) * np.eye(x.shape[1])
        found = np.linalg.solve((x * weight[:, None]).T @ x + penalty, (x * weight[:, None]).T @ rows.label)
        return Fitted(mean.astype(np.float32), found.astype(np.float32))


class Fitted:
    """What it gives."""

    def __init__(self, mean: Any, weights: Any) -> None:
        self.mean = mean
        self.weights = weights

    def predict(self, features: Any) -> Any:
        """Return a number a row."""
        filled = np.where(np.isnan(features), self.mean, features)
        return filled @ self.weights[:-1] + self.weights[-1]

    def to_onnx(self) -> Any:
        """Return the same as a graph: `features` float32 [rows, features] in, a number a row out."""
        count = len(self.mean)
        constants = {"mean": self.mean, "weights": self.weights[:-1, None], "bias": self.weights[-1:]}
        nodes = [
            helper.make_node("IsNaN", ["features"], ["missing"]),
            helper.make_node("Where", ["missing", "mean", "features"], ["filled"]),
            helper.make_node("MatMul", ["filled", "weights"], ["product"]),
            helper.make_node("Add", ["product", "bias"], ["prediction"]),
        ]
        graph = helper.make_graph(
            nodes,
            "least-squares",
            [helper.make_tensor_value_info("features", TensorProto.FLOAT, [None, count])],
            [helper.make_tensor_value_info("prediction", TensorProto.FLOAT, [None, 1])],
            [numpy_helper.from_array(value, name) for name, value in constants.items()],
        )
        return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
