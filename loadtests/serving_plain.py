"""The server that Trimtab is measured against: gRPC's threads, ONNX Runtime, and nothing else.

`python serving_plain.py MODEL.onnx ADDRESS THREADS` answers ModelInfer of the Open Inference Protocol for float tensors
in raw form. It knows no routing, no versions, no log, no metrics.
"""

import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc
import numpy as np
from serving_session import session
from tritonclient.grpc import service_pb2 as pb2
from tritonclient.grpc import service_pb2_grpc as pb2_grpc


class Plain(pb2_grpc.GRPCInferenceServiceServicer):  # type: ignore[misc]
    """Answers ModelInfer."""

    def __init__(self, model: bytes) -> None:
        self._session, self._output = session(model)

    def ModelInfer(self, request: Any, context: Any) -> Any:
        """Run the model on the first input."""
        features = np.frombuffer(request.raw_input_contents[0], np.float32).reshape(request.inputs[0].shape)
        prediction = self._session.run([self._output], {"features": features})[0]
        answer = pb2.ModelInferResponse(model_name=request.model_name, model_version="1", id=request.id)
        answer.outputs.add(name="prediction", datatype="FP32", shape=prediction.shape)
        answer.raw_output_contents.append(prediction.tobytes())
        return answer


def main(model: Path, address: str, threads: int) -> None:
    server = grpc.server(ThreadPoolExecutor(threads))
    pb2_grpc.add_GRPCInferenceServiceServicer_to_server(Plain(model.read_bytes()), server)
    server.add_insecure_port(address)
    server.start()
    server.wait_for_termination()


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2], int(sys.argv[3]))
