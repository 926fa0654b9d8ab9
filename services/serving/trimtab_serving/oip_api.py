"""The Open Inference Protocol door: any Triton or KServe client, with the features in its own hands.

A model takes `features` FP32 [rows, features], where it has some `texts` BYTES
[rows, texts], and, optionally, `key` BYTES [rows]
(the label's join key) and `event_time_ms` INT64 [rows]; it answers `prediction` FP32
[rows], always raw, under the version that answered; one of classes the number of the
most probable, and `probabilities` FP32 [rows, classes]. Only rows with a key take part in
rollouts and are logged: without one no label can ever be joined. Which versions are
loaded is decided by the registry, and not through this door.
"""

from collections.abc import Iterable, Iterator
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray
from trimtab_core.features import MOST_CHARACTERS
from trimtab_core.timestamps import EARLIEST_MS, LATEST_MS
from trimtab_runtime.errors import Conflict, NotFound, TrimtabError
from tritonclient.grpc import model_config_pb2 as config_pb2
from tritonclient.grpc import service_pb2 as pb2
from tritonclient.grpc import service_pb2_grpc as pb2_grpc

from trimtab_serving import tensors
from trimtab_serving.errors import BadTensor, NotDecidedHere
from trimtab_serving.meter import Totals
from trimtab_serving.snapshot import Board
from trimtab_serving.usecases import Predictions, Tensors
from trimtab_serving.versions import INPUT, OUTPUT, PROBABILITIES, TEXTS, Version

SERVICE = "inference.GRPCInferenceService"
KEY, EVENT_TIME = "key", "event_time_ms"
EXTENSIONS = ("model_configuration", "model_repository", "statistics", "binary_tensor_data")
"""Of Triton's to the protocol, those that are offered, each as far as this page says."""
_READY, _UNAVAILABLE = "READY", "UNAVAILABLE"


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
        except (Conflict, NotFound):
            return pb2.ModelReadyResponse(ready=False)
        return pb2.ModelReadyResponse(ready=True)

    def ServerMetadata(self, request: Any, context: Any) -> Any:
        """Say who this is."""
        return pb2.ServerMetadataResponse(name="trimtab", version=self._version, extensions=EXTENSIONS)

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
        if answer.arms:
            response.parameters["arm"].string_param = answer.arms[0]
        said, wanted = answer.predictions, {output.name for output in request.outputs}
        outputs = (
            {OUTPUT: said.argmax(axis=1).astype(np.float32), PROBABILITIES: said}
            if answer.classes
            else {OUTPUT: said}
        )
        for name, values in outputs.items():
            if not wanted or name in wanted:
                _add(response, name, values)
        return response

    def ModelStreamInfer(self, requests: Iterator[Any], context: Any) -> Iterator[Any]:
        """Answer each request of a stream in its turn; one that fails is told so, and the next is answered."""
        for request in requests:
            try:
                answer = self.ModelInfer(request, context)
            except TrimtabError as error:
                which = pb2.ModelInferResponse(model_name=request.model_name, id=request.id)
                yield pb2.ModelStreamInferResponse(error_message=str(error), infer_response=which)
            else:
                answer.parameters["triton_final_response"].bool_param = True
                yield pb2.ModelStreamInferResponse(infer_response=answer)

    def ModelStatistics(self, request: Any, context: Any) -> Any:
        """Say what the warm versions of a model, or of all, were asked since this process began."""
        snapshot, totals = self._board.current, self._predictions.totals()
        if request.name:
            served = snapshot.of(request.name)
            numbers = [served.pinned(request.version).number] if request.version else sorted(served.warm)
            places = [(request.name, number) for number in numbers]
        else:
            places = [
                (model, number) for model, each in snapshot.served.items() for number in sorted(each.warm)
            ]
        return pb2.ModelStatisticsResponse(
            model_stats=[_statistics(*place, totals.get(place, Totals())) for place in places]
        )

    def RepositoryIndex(self, request: Any, context: Any) -> Any:
        """List all models that are known: the versions that are warm, and why one does not answer."""
        snapshot, entry = self._board.current, pb2.RepositoryIndexResponse.ModelIndex
        models = [
            entry(name=model, version=str(number), state=_READY)
            for model, served in snapshot.served.items()
            for number in sorted(served.warm)
        ]
        if not request.ready:
            models += [
                entry(name=model, state=_UNAVAILABLE, reason=why) for model, why in snapshot.silent.items()
            ]
        return pb2.RepositoryIndexResponse(models=models)

    def RepositoryModelLoad(self, request: Any, context: Any) -> Any:
        """Agree where the model is loaded, as the registry wants it, and say why not where it is not."""
        self._board.current.of(request.model_name)
        if request.parameters:
            raise NotDecidedHere(
                request.model_name, "how it is loaded", "apply its spec, or register a version"
            )
        return pb2.RepositoryModelLoadResponse()

    def RepositoryModelUnload(self, request: Any, context: Any) -> Any:
        """Refuse: the model would be gone from one instance, until the next word of the registry."""
        self._board.current.of(request.model_name)
        raise NotDecidedHere(
            request.model_name,
            "whether it is loaded",
            f"take it out of service by `trimtab model retire {request.model_name}`",
        )


def _outputs(version: Version) -> dict[str, list[int]]:
    """Return what a version gives, by name, and of which shape."""
    found = {OUTPUT: [-1]}
    return found | {PROBABILITIES: [-1, len(version.classes)]} if version.classes else found


def _statistics(model: str, number: int, totals: Totals) -> Any:
    """Return Triton's figures of a version; what it takes apart is here one: the time from rows to answers."""
    lasted = pb2.StatisticDuration(count=totals.requests, ns=totals.latency_us * 1000)
    failed = pb2.StatisticDuration(count=totals.failures, ns=totals.failures_us * 1000)
    return pb2.ModelStatistics(
        name=model,
        version=str(number),
        last_inference=totals.newest_ms,
        inference_count=totals.rows,
        execution_count=totals.requests,
        inference_stats=pb2.InferStatistics(success=lasted, fail=failed, compute_infer=lasted),
    )


def _add(response: Any, name: str, values: NDArray[np.float32]) -> None:
    output = response.outputs.add()
    output.name, output.datatype = name, "FP32"
    output.shape.extend(values.shape)
    response.raw_output_contents.append(values.tobytes())


def _read(request: Any, version: Version) -> Tensors:
    """Return what a version takes, and the keys and event times that came with it."""
    features, texts, keys, times = None, None, list[str](), list[int]()
    _check_outputs(request.outputs, version)
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
    for at in times:
        if not EARLIEST_MS <= at <= LATEST_MS:
            raise BadTensor(
                f"{at} in {EVENT_TIME!r} is no time: send milliseconds since 1970, of the years 1 to 9999"
            )
    if long := [key for key in keys if len(key) > MOST_CHARACTERS]:
        raise BadTensor(
            f"a value of {KEY!r} has {len(long[0])} characters: send {MOST_CHARACTERS} at most, or what stands for it"
        )
    return (features, texts), keys, times


def _check_outputs(asked: Iterable[Any], version: Version) -> None:
    for output in asked:
        if output.name not in _outputs(version):
            raise BadTensor(
                f"the model gives no output {output.name!r}: ask for {' or '.join(_outputs(version))}, or name none"
            )
        if output.parameters:
            raise BadTensor(
                f"output {output.name!r} is asked for with {sorted(output.parameters)}, and is given raw, in the answer: "
                "ask for it without"
            )
