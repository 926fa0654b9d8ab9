"""The trainer finds what is there, and its graph says what it says."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from mytrainer import Trainer
from onnx.reference import ReferenceEvaluator


@dataclass
class Rows:
    """What Trimtab gives."""

    features: Any
    label: Any
    weight: Any = None
    names: tuple[str, ...] = ("a", "b")

    def __len__(self) -> int:
        return len(self.label)


def test_the_graph_says_what_was_fitted() -> None:
    x = np.random.default_rng(0).normal(size=(200, 2)).astype(np.float32)
    x[::10, 1] = np.nan

    fitted = Trainer().fit(Rows(x, 3 * x[:, 0] + 1), parameters={}, seed=0)

    model = fitted.to_onnx()
    onnx.checker.check_model(model)
    said = ReferenceEvaluator(model).run(None, {"features": x})[0].reshape(-1)
    assert np.allclose(said, fitted.predict(x), atol=1e-5)
    assert np.allclose(said, 3 * x[:, 0] + 1, atol=1e-2)
