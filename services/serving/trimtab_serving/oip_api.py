"""The Open Inference Protocol door: any Triton or KServe client, with the features in its own hands.

A model takes `features` FP32 [rows, features], where it has some `texts` BYTES
[rows, texts], and, optionally, `key` BYTES [rows]
(the label's join key) and `event_time_ms` INT64 [rows]; it answers `prediction` FP32
[rows], always raw, under the version that answered; one of classes the number of the
most probable, and `probabilities` FP32 [rows, classes]. Only rows with a key take part in
rollouts and are logged: without one no label can ever be joined.
"""

from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray
from trimtab_runtime.errors import Conflict
from tritonclient.grpc import model_config_pb2 as config_pb2
from tritonclient.grpc import service_pb2 as pb2
from tritonclient.grpc import service_pb2_grpc as pb2_grpc

from trimtab_serving import tensors
from trimtab_serving.errors import BadTensor
from trimtab_serving.snapshot import Board
from trimtab_serving.usecases import Predictions, Tensors
from trimtab_serving.versions import INPUT, OUTPUT, PROBABILITIES, TEXTS, Version

SERVICE = "inference.GRPCInferenceService"
KEY, EVENT_TIME = "key", "event_time_ms"


class InferenceApi(pb2_grpc.GRPCInferenceServiceServicer):  # type: ignore[misc]
    """Answers `inference.GRPCInferenceService`."""

    def __init__(self, predictions: Predictions, board: Board, version: str) -> None:
        self._predictions = predictions
        self._board = board
        self._version = version

    def ServerLive(self, request: Any, context: Any) -> Any:
        """Say that the server runs."""
        return pb2.ServerLiveResponse(live=True)

    def ServerReady(self, request: Any, context: Any) -> Any:
        """Say whether every model that ought to answer does."""
        return pb2.ServerReadyResponse(ready=self._board.ready)

    def ModelReady(self, request: Any, context: Any) -> Any:
        """Say whether a model, or one version of it, answers."""
        try:
            served = self._board.current.of(request.name)
            served.pinned(request.version)
        except Conflict:
            return pb2.ModelReadyResponse(ready=False)
        return pb2.ModelReadyResponse(ready=True)

    def ServerMetadata(self, request: Any, context: Any) -> Any:
        """Say who this is."""
        return pb2.ServerMetadataResponse(
            name="trimtab", version=self._version, extensions=["model_configuration"]
        )

    def ModelMetadata(self, request: Any, context: Any) -> Any:
        """Say what a model takes and gives."""
        served = self._board.current.of(request.name)
        version = served.pinned(request.version)
        width, words = len(version.features), len(version.texts)
        tensor = pb2.ModelMetadataResponse.TensorMetadata
        return pb2.ModelMetadataResponse(
            name=request.name,
            versions=[str(number) for number in sorted(served.warm)],
            platform="onnxruntime_onnx",
            inputs=[
                tensor(name=INPUT, datatype="FP32", shape=[-1, width]),
                *([tensor(name=TEXTS, datatype="BYTES", shape=[-1, words])] if words else []),
                tensor(name=KEY, datatype="BYTES", shape=[-1]),
                tensor(name=EVENT_TIME, datatype="INT64", shape=[-1]),
            ],
            outputs=[
                tensor(name=name, datatype="FP32", shape=shape) for name, shape in _outputs(version).items()
            ],
        )

    def ModelConfig(self, request: Any, context: Any) -> Any:
        """Say the same in the words of Triton's configuration, where an input can be optional."""
        version = self._board.current.of(request.name).pinned(request.version)
        width, words = len(version.features), len(version.texts)
        taken = config_pb2.ModelInput
        config = config_pb2.ModelConfig(
            name=request.name,
            platform="onnxruntime_onnx",
            backend="onnxruntime",
            input=[
                taken(name=INPUT, data_type=config_pb2.TYPE_FP32, dims=[-1, width]),
                *([taken(name=TEXTS, data_type=config_pb2.TYPE_STRING, dims=[-1, words])] if words else []),
                taken(name=KEY, data_type=config_pb2.TYPE_STRING, dims=[-1], optional=True),
                taken(name=EVENT_TIME, data_type=config_pb2.TYPE_INT64, dims=[-1], optional=True),
            ],
            output=[
                config_pb2.ModelOutput(name=name, data_type=config_pb2.TYPE_FP32, dims=shape)
                for name, shape in _outputs(version).items()
            ],
        )
        return pb2.ModelConfigResponse(config=config)

    def ModelInfer(self, request: Any, context: Any) -> Any:
        """Answer for some rows of features."""
        answer = self._predictions.infer(request.model_name, partial(_read, request), request.model_version)
        response = pb2.ModelInferResponse(
            model_name=request.model_name, model_version=str(answer.versions[0]), id=request.id
        )
        said = answer.predictions
        if answer.classes:
            _add(response, OUTPUT, said.argmax(axis=1).astype(np.float32))
            _add(response, PROBABILITIES, said)
        else:
            _add(response, OUTPUT, said)
        return response


def _outputs(version: Version) -> dict[str, list[int]]:
    """Return what a version gives, by name, and of which shape."""
    found = {OUTPUT: [-1]}
    return found | {PROBABILITIES: [-1, len(version.classes)]} if version.classes else found


def _add(response: Any, name: str, values: NDArray[np.float32]) -> None:
    output = response.outputs.add()
    output.name, output.datatype = name, "FP32"
    output.shape.extend(values.shape)
    response.raw_output_contents.append(values.tobytes())


def _read(request: Any, version: Version) -> Tensors:
    """Return what a version takes, and the keys and event times that came with it."""
    features, texts, keys, times = None, None, list[str](), list[int]()
    for declared, raw in tensors.inputs(request):
        name = declared.name
        if name == INPUT:
            features = tensors.features(declared, raw, len(version.features))
        elif name == TEXTS and version.texts:
            texts = tensors.text_columns(declared, raw, len(version.texts))
        elif name == KEY:
            keys = tensors.texts(declared, raw)
        elif name == EVENT_TIME:
            times = tensors.integers(declared, raw)
        else:
            all_of_it = f"{INPUT}, {TEXTS}" if version.texts else INPUT
            raise BadTensor(
                f"the model takes no input {name!r}: it takes {all_of_it}, {KEY} and {EVENT_TIME}"
            )
    if features is None or not len(features):
        raise BadTensor(f"the request has no rows in an input {INPUT!r}: send at least one")
    if version.texts and (texts is None or len(texts) != len(features)):
        sent = "none" if texts is None else str(len(texts))
        raise BadTensor(f"{len(features)} rows came with {sent} in an input {TEXTS!r}: send one for each")
    if (keys and len(keys) != len(features)) or (times and len(times) != len(features)):
        raise BadTensor(
            f"{len(features)} rows came with {len(keys)} values of {KEY!r} and {len(times)} of {EVENT_TIME!r}: "
            "send one for each row, or none"
        )
    return (features, texts), keys, times
