"""What Triton's Python backend runs in bench_serving.py: one call of ONNX Runtime for all requests that wait."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import triton_python_backend_utils as backend
from serving_session import session


class TritonPythonModel:
    """Answers with the model that the parameter `onnx` of its configuration names."""

    def initialize(self, args: dict[str, str]) -> None:
        """Open the model."""
        parameters = json.loads(args["model_config"])["parameters"]
        self._session, self._output = session(Path(parameters["onnx"]["string_value"]).read_bytes())

    def execute(self, requests: list[Any]) -> list[Any]:
        """Run the model once, and give each request its rows."""
        taken = [backend.get_input_tensor_by_name(request, "features").as_numpy() for request in requests]
        said = self._session.run([self._output], {"features": np.concatenate(taken)})[0]
        parts = np.split(said, np.cumsum([len(rows) for rows in taken])[:-1])
        return [
            backend.InferenceResponse(output_tensors=[backend.Tensor("prediction", part)]) for part in parts
        ]
