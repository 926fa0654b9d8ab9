"""An NVIDIA Triton as the engine: versions are loaded into it and unloaded by repository control.

Triton has to run with `--model-control-mode=explicit`; graphs travel with the request
that loads them, so the two share no folder. Each load has a name of its own, which
begins with the instance's: what an instance that was killed left behind is unloaded
when its successor begins. A Triton that has been started anew knows nothing of what it
was given: the request that finds that out loads the graph again.
"""

import itertools
import json
import logging
import threading
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import Any
from weakref import finalize

from numpy.typing import NDArray
from trimtab_runtime.errors import Unavailable
from tritonclient.grpc import InferenceServerClient, InferInput, InferRequestedOutput
from tritonclient.utils import InferenceServerException

from trimtab_serving.engines import OnnxSession, Session, Tensor, opened
from trimtab_serving.errors import CannotServe, Forgotten

log = logging.getLogger(__name__)

BACKENDS = ("onnxruntime", "python")
_LOAD_S, _SCORE_S, _CONTROL_S = 120.0, 10.0, 10.0
_TYPES = {
    "tensor(float)": ("TYPE_FP32", "FP32"),
    "tensor(double)": ("TYPE_FP64", "FP64"),
    "tensor(int64)": ("TYPE_INT64", "INT64"),
    "tensor(string)": ("TYPE_STRING", "BYTES"),
}
_PYTHON = b"""
import os
import sys

sys.path += os.environ.get("PYTHONPATH", "").split(os.pathsep)  # which an isolated interpreter does not read

import numpy as np
import onnxruntime
import triton_python_backend_utils as triton


class TritonPythonModel:
    def initialize(self, args):
        path = os.path.join(args["model_repository"], args["model_version"], "model.onnx")
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        self._session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])

    def execute(self, requests):
        return [self._answer(request) for request in requests]

    def _answer(self, request):
        given = {tensor.name(): _values(tensor) for tensor in request.inputs()}
        names = list(request.requested_output_names())
        found = zip(names, self._session.run(names, given))
        return triton.InferenceResponse([triton.Tensor.from_dlpack(name, values) for name, values in found])


def _values(tensor):
    # By DLPack, there and back: a stub that was built for numpy 1 mistakes the arrays of numpy 2.
    if tensor.name() != "texts":
        return np.array(np.from_dlpack(tensor))
    texts = tensor.as_numpy()
    return np.array([text.decode() for text in texts.ravel()], object).reshape(texts.shape)
"""
"""For a Triton that has the Python backend and no ONNX Runtime's."""


class TritonEngine:
    """One Triton, which other instances may use too."""

    def __init__(self, address: str, backend: str, owner: str) -> None:
        """Connect to `address`, when first needed; `owner` is this instance."""
        self._client = InferenceServerClient(address, channel_args=[("grpc.enable_http_proxy", 0)])
        self._address = address
        self._backend = backend
        self._prefix = f"trimtab.{owner}-load-"
        self._numbers = itertools.count(1)
        self._unloading = ThreadPoolExecutor(1, "triton-unload")
        self._sweeping = threading.Lock()
        self._is_swept = False

    def load(self, name: str, onnx: bytes) -> Session:
        """Load a graph into Triton; it is unloaded once nobody here holds it."""
        graph = opened(name, onnx)  # here for as long as it takes to see what it takes and gives
        with self._sweeping:
            self._sweep()
            model = f"{self._prefix}{next(self._numbers)}"
        files = {"file:1/model.onnx": onnx}
        if self._backend == "python":
            files["file:1/model.py"] = _PYTHON
        config = {"backend": self._backend, "max_batch_size": 0} | _tensors(graph)
        try:
            self._client.load_model(model, config=json.dumps(config), files=files, client_timeout=_LOAD_S)
        except InferenceServerException as error:
            raise self._away(error) or CannotServe(
                f"{name} cannot be loaded by the Triton at {self._address}: {error.message()}; "
                "look at its log, and at TRIMTAB_SERVING_TRITON_BACKEND"
            ) from error
        session = _TritonSession(self, self._client, model, graph)
        finalize(session, self._unload_later, model).atexit = False
        return session

    def close(self) -> None:
        """Unload all that is loaded, and hang up."""
        self._unloading.shutdown(wait=True)
        with suppress(InferenceServerException):
            self._unload_mine()
        self._client.close()

    def fault(self, name: str, error: InferenceServerException) -> Exception:
        """Return what a call that failed means."""
        if "unknown model" in error.message():
            return Forgotten(f"the Triton at {self._address} has lost {name}: ask again")
        return self._away(error) or RuntimeError(f"Triton failed on {name}: {error.message()}")

    def _away(self, error: InferenceServerException) -> Unavailable | None:
        if error.status() in ("StatusCode.UNAVAILABLE", "StatusCode.DEADLINE_EXCEEDED"):
            return Unavailable(f"the Triton at {self._address} is away: {error.message()}")
        return None

    def _sweep(self) -> None:
        """Unload, once, what an instance of this name left behind."""
        if self._is_swept:
            return
        try:
            self._unload_mine()
        except InferenceServerException as error:
            raise self._away(error) or error from error
        self._is_swept = True

    def _unload_mine(self) -> None:
        # The index of the repository names only what lies in Triton's own folder.
        loaded = self._client.get_inference_statistics(client_timeout=_CONTROL_S).model_stats
        for model in {each.name for each in loaded if each.name.startswith(self._prefix)}:
            self._client.unload_model(model, client_timeout=_CONTROL_S)

    def _unload_later(self, model: str) -> None:
        """Unload on a thread of its own: whoever let go last may be a request."""
        with suppress(RuntimeError):  # closed, which unloads all
            self._unloading.submit(self._unload, model)

    def _unload(self, model: str) -> None:
        try:
            self._client.unload_model(model, client_timeout=_CONTROL_S)
        except InferenceServerException as error:
            log.warning("Triton did not unload %s: %s", model, error)


class _TritonSession:
    """A graph in Triton."""

    def __init__(
        self, engine: TritonEngine, client: InferenceServerClient, model: str, graph: OnnxSession
    ) -> None:
        self.takes: Mapping[str, Tensor] = graph.takes
        self.gives: Mapping[str, Tensor] = graph.gives
        self.size = graph.size
        self._engine = engine
        self._client = client
        self._model = model

    def score(self, output: str, given: Mapping[str, Any]) -> NDArray[Any]:
        """Return one output, computed there."""
        inputs = []
        for name, values in given.items():
            taken = InferInput(name, list(values.shape), _TYPES[self.takes[name].type][1])
            taken.set_data_from_numpy(values)
            inputs.append(taken)
        try:
            found = self._client.infer(
                self._model, inputs, outputs=[InferRequestedOutput(output)], client_timeout=_SCORE_S
            )
        except InferenceServerException as error:
            raise self._engine.fault(self._model, error) from error
        answer: NDArray[Any] = found.as_numpy(output)
        return answer


def _tensors(graph: OnnxSession) -> dict[str, Any]:
    """Return the inputs and outputs of a graph in the words of Triton's configuration."""
    return {
        part: [
            {"name": name, "data_type": _TYPES[it.type][0], "dims": [size or -1 for size in it.shape]}
            for name, it in tensors.items()
            if it.type in _TYPES
        ]
        for part, tensors in (("input", graph.takes), ("output", graph.gives))
    }
