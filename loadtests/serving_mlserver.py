"""What MLServer runs in bench_serving.py: a runtime that only calls ONNX Runtime.

MLServer has none of its own for ONNX; this is the smallest that its documentation asks for.
"""

from pathlib import Path

import onnxruntime
from mlserver import MLModel
from mlserver.codecs import NumpyCodec
from mlserver.types import InferenceRequest, InferenceResponse
from serving_session import session


class Onnx(MLModel):  # type: ignore[misc]
    """Answers with the model whose file its settings name."""

    _session: onnxruntime.InferenceSession
    _output: str

    async def load(self) -> bool:
        """Open the model."""
        self._session, self._output = session(_read(self.settings.parameters.uri))
        return True

    async def predict(self, payload: InferenceRequest) -> InferenceResponse:
        """Run the model on the first input."""
        features = NumpyCodec.decode_input(payload.inputs[0])
        said = self._session.run([self._output], {"features": features})[0]
        return InferenceResponse(
            model_name=self.name, id=payload.id, outputs=[NumpyCodec.encode_output("prediction", said)]
        )


def _read(path: str) -> bytes:
    return Path(path).read_bytes()
