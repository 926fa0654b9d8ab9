"""Whether a user's ONNX graph can serve a model, and the same graph as serving runs it.

Serving gives `features` float32 [rows, features] and, where there are some, `texts`
string [rows, texts], and reads a number a row, or the probabilities of classes. A
graph that takes a feature an input, doubles, or gives scikit-learn's labels and
probabilities says the same in other words and is adapted; any other is refused with
what to change. Nothing is run here.
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import onnx
from google.protobuf.message import DecodeError
from onnx import TensorProto, helper, numpy_helper
from trimtab_runtime.ort import onnxruntime

from trimtab_training import export
from trimtab_training.errors import RunFailed

INPUT, TEXTS, OUTPUT = "features", "texts", "prediction"
_REALS = {TensorProto.FLOAT: "float", TensorProto.DOUBLE: "double"}
_CLASSES = ("classlabels_strings", "classlabels_int64s", "classlabels_ints")
_PREFIX = "trimtab_"
"""Of the names that are added to a graph."""


@dataclass(frozen=True, slots=True)
class _Given:
    """One of the two matrices that serving gives."""

    name: str
    features: tuple[str, ...]
    """Its columns."""
    kind: int

    @property
    def places(self) -> dict[str, int]:
        """The column of each feature, by what an input may call it."""
        return {name: at for at, feature in enumerate(self.features) for name in called(feature)}


def adapted(
    content: bytes, features: Sequence[str], task: str, *, texts: Sequence[str] = (), classes: Sequence[str] = ()
) -> Any:  # fmt: skip
    """Return the graph in `content` as serving runs it, for a model of these features and `texts`, and of these classes.

    Raises:
        RunFailed: it is no graph that can; it says why, and what to change.
    """
    try:
        model = onnx.load_model_from_string(content)
    except DecodeError as error:
        raise RunFailed("the file is no ONNX model: export one, and register that") from error
    if not model.graph.node:
        raise RunFailed(
            "the file is no ONNX model, or one that computes nothing: export one, and register that"
        )
    if far := next((tensor.name for tensor in _tensors(model.graph) if _is_elsewhere(tensor)), None):
        raise RunFailed(
            f"tensor {far!r} of the model is in another file: save it as one, with onnx.save(model, path) of a model "
            "that onnx.load has read"
        )
    _can_run(model)
    names = {value.name for value in model.graph.initializer}
    inputs = [value for value in model.graph.input if value.name not in names]
    are_texts = [value for value in inputs if texts and _kind(value) == TensorProto.STRING]
    for value in inputs:
        if value.name == (INPUT if value in are_texts else TEXTS):
            value.name = _free(model.graph, value.name)
    numbers = _Given(INPUT, tuple(features), TensorProto.FLOAT)
    words = _Given(TEXTS, tuple(texts), TensorProto.STRING)
    _inputs(model, [value for value in inputs if value not in are_texts], numbers)
    if texts:
        _inputs(model, are_texts, words)
    if task == "multiclass":
        _probabilities(model, classes)
    else:
        _output(model, task)
    if not any(each.domain in ("", "ai.onnx") for each in model.opset_import):
        model.opset_import.append(helper.make_opsetid("", 18))
    return model


def facts(content: bytes) -> dict[str, str]:
    """Return what a model says of where it comes from."""
    model = onnx.load_model_from_string(content)
    opsets = {each.domain or "ai.onnx": each.version for each in model.opset_import}
    return {
        "producer": " ".join(filter(None, (model.producer_name, model.producer_version))) or "not said",
        "ir_version": str(model.ir_version),
        **{f"opset.{domain}": str(version) for domain, version in sorted(opsets.items())},
        "onnxruntime": onnxruntime.__version__,
    }


def _can_run(model: Any) -> None:
    """Refuse what the runtime that serves cannot open, before anything is changed in it."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    try:
        onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # ONNX Runtime's own exceptions share no base
        opsets = ", ".join(f"{each.domain or 'ai.onnx'} {each.version}" for each in model.opset_import)
        raise RunFailed(
            f"ONNX Runtime {onnxruntime.__version__}, which serves, cannot open the model (IR version "
            f"{model.ir_version}; opset {opsets}): {_first_line(error)}; export it with opset 18, of standard operators"
        ) from error


def _inputs(model: Any, inputs: Sequence[Any], given: _Given) -> None:
    """Let what is given be taken in the place of `inputs`, which may be of some of its columns, or none."""
    if given.name not in {value.name for value in inputs}:
        _free(model.graph, given.name)
    if len(inputs) == 1 and inputs[0].name not in given.places:
        _one_matrix(model, inputs[0], given)
    else:
        _an_input_each(model, inputs, given)


def _one_matrix(model: Any, value: Any, given: _Given) -> None:
    """Call the one input as what is given, and let it be that."""
    width, columns = len(given.features), ", ".join(given.features)
    shape = _checked(value, width, f"{width} {given.name} ({columns})", given)
    name = f"{_PREFIX}matrix" if value.name == given.name else value.name
    if _kind(value) == given.kind:
        _rename(model.graph, value.name, given.name)
    else:
        _rename(model.graph, value.name, name)
        model.graph.node.insert(0, helper.make_node("Cast", [given.name], [name], to=TensorProto.DOUBLE))
    _take(model.graph, [value.name, name, given.name], given, shape)


def _an_input_each(model: Any, inputs: Sequence[Any], given: _Given) -> None:
    """Give each input, which has a feature's name, its column of what is given."""
    nodes, kind = [], TensorProto.DataType.Name(given.kind).lower()
    for value in inputs:
        if (place := given.places.get(value.name)) is None:
            raise RunFailed(
                f"the model takes {value.name!r}, which is none of the {given.name} of this model "
                f"({', '.join(given.features)}): give it one {kind} input [rows, {given.name}] in that order, or an input a "
                "feature, called as the feature is"
            )
        _checked(value, 1, "one column for a feature", given)
        own = f"{_PREFIX}{given.name}_{place}"
        column, name, at = f"{own}_column", f"{own}_input", f"{own}_at"
        dims = [] if _rank(value) == 1 else [1]
        model.graph.initializer.append(helper.make_tensor(at, TensorProto.INT64, dims, [place]))
        nodes += [
            helper.make_node("Gather", [given.name, at], [column], axis=1),
            helper.make_node("Identity", [column], [name])
            if _kind(value) == given.kind
            else helper.make_node("Cast", [column], [name], to=_kind(value)),
        ]
        _rename(model.graph, value.name, name)
    for place, node in enumerate(nodes):
        model.graph.node.insert(place, node)
    _take(model.graph, [value.name for value in inputs], given, [None, len(given.features)])


def _kind(value: Any) -> int:
    return int(value.type.tensor_type.elem_type) if value.type.HasField("tensor_type") else 0


def _checked(value: Any, width: int, what: str, given: _Given) -> list[int | None]:
    """Return the shape that an input will have; refuse one that cannot be given `width` columns, which are `what`."""
    kind = _kind(value)
    if given.kind != kind and kind not in _REALS:
        said = TensorProto.DataType.Name(kind).lower() if kind else "no tensor"
        raise RunFailed(
            f"input {value.name!r} of the model is {said}, and a feature is a float that is NaN where it is missing: "
            "export it with float32 inputs"
        )
    dims = [dim.dim_value or None for dim in value.type.tensor_type.shape.dim]
    rank = len(dims) if value.type.tensor_type.HasField("shape") else 2
    if rank != 2 and (rank, width) != (1, 1):
        raise RunFailed(
            f"input {value.name!r} of the model has {rank} dimensions, and rows of features have 2: export it so"
        )
    if dims and dims[0] is not None:
        raise RunFailed(
            f"the model takes exactly {dims[0]} rows at a time, and serving gives it as many as are asked for: export it "
            "with a first dimension that is not fixed (dynamic_axes, or dynamic_shapes)"
        )
    if rank == 2 and dims and dims[1] not in (None, width):
        raise RunFailed(
            f"input {value.name!r} of the model takes {dims[1]} columns, and this model has {what}: export it for those, in "
            "that order, or with an input a feature, called as the feature is"
        )
    return [None, width]


def _output(model: Any, task: str) -> None:
    """Leave one output, `prediction` [rows]: the value, or the probability of the positive class."""
    outputs = list(model.graph.output)
    chosen = next((value for value in outputs if value.name == OUTPUT), None)
    if chosen is None:
        chosen = outputs[-1] if task == "binary" else outputs[0]
    name, width = _tensor_of(model.graph, chosen), _width(chosen)
    graph = model.graph
    if chosen.type.HasField("tensor_type") and chosen.type.tensor_type.elem_type not in _REALS:
        kind = TensorProto.DataType.Name(chosen.type.tensor_type.elem_type).lower()
        wanted = "the probability of the positive class" if task == "binary" else "a number"
        raise RunFailed(
            f"output {chosen.name!r} of the model is {kind}, and {wanted} is wanted as a float: export it so"
        )
    name = _free(graph, OUTPUT) if name == OUTPUT else name
    _free(graph, OUTPUT)
    if task == "binary" and (width == 2 or not chosen.type.HasField("tensor_type")):
        graph.initializer.append(helper.make_tensor(f"{_PREFIX}positive", TensorProto.INT64, [1], [1]))
        graph.node.append(
            helper.make_node("Gather", [name, f"{_PREFIX}positive"], [f"{_PREFIX}chosen"], axis=1)
        )
        name = f"{_PREFIX}chosen"
    elif width not in (None, 1):
        raise RunFailed(
            f"output {chosen.name!r} of the model has {width} numbers a row, and one is wanted: export it so"
        )
    graph.initializer.append(helper.make_tensor(f"{_PREFIX}flat", TensorProto.INT64, [1], [-1]))
    graph.node.append(helper.make_node("Cast", [name], [f"{_PREFIX}float"], to=TensorProto.FLOAT))
    graph.node.append(helper.make_node("Reshape", [f"{_PREFIX}float", f"{_PREFIX}flat"], [OUTPUT]))
    del graph.output[:], graph.value_info[:]
    graph.output.append(helper.make_tensor_value_info(OUTPUT, TensorProto.FLOAT, [None]))


def _probabilities(model: Any, classes: Sequence[str]) -> None:
    """Leave two outputs: `prediction`, the number of the most probable class, and the `probabilities` [rows, classes]."""
    graph, outputs = model.graph, list(model.graph.output)
    chosen = next((value for value in outputs if value.name == "probabilities"), outputs[-1])
    maps = not chosen.type.HasField("tensor_type")
    if not maps and (_kind(chosen) not in _REALS or _rank(chosen) != 2):
        kind = TensorProto.DataType.Name(_kind(chosen)).lower()
        raise RunFailed(
            f"output {chosen.name!r} of the model is {kind} of {_rank(chosen)} dimensions, and the probabilities "
            f"[rows, {len(classes)}] of the classes {', '.join(classes)} are wanted as floats: export them"
        )
    width = None if maps else _width(chosen)
    told, name = _told_classes(graph, width), _tensor_of(graph, chosen)
    places = _places(told, classes) if told else list(range(len(classes)))
    if width not in (None, len(places)):
        raise RunFailed(
            f"output {chosen.name!r} of the model has {width} numbers a row, and this model has {len(places)} classes "
            f"({', '.join(classes)}): export the probability of each, in that order"
        )
    for ours in (OUTPUT, "probabilities", "own_columns", "most_probable"):
        other = _free(graph, ours)
        name = other if name == ours else name
    graph.node.append(helper.make_node("Cast", [name], [f"{_PREFIX}float"], to=TensorProto.FLOAT))
    del graph.value_info[:]
    export.probabilities_of(graph, f"{_PREFIX}float", places, len(classes))


def _told_classes(graph: Any, width: int | None) -> list[Any]:
    """Return the classes that a graph itself names, in the order of its columns, of which there are `width`; none, if it names none.

    They stand in what makes scikit-learn's maps, in a classifier, or in what its label is taken from.
    """
    constants = {tensor.name: tensor for tensor in graph.initializer}
    told: list[list[Any]] = []
    for node in sorted(graph.node, key=lambda node: node.op_type != "ZipMap"):
        told += [
            [*attribute.strings, *attribute.ints]
            for attribute in node.attribute
            if attribute.name in _CLASSES
        ]
        if node.op_type == "ArrayFeatureExtractor" and node.input[0] in constants:
            told.append(numpy_helper.to_array(constants[node.input[0]]).ravel().tolist())
    found: list[Any] = next((each for each in told if each and width in (None, len(each))), [])
    return [each.decode() if isinstance(each, bytes) else each for each in found]


def _places(told: Sequence[Any], classes: Sequence[str]) -> list[int]:
    """Return which of `classes` each of the classes is that a graph names: by their names, or else by their numbers."""
    names = [str(each) for each in told]
    if set(names) <= set(classes):
        return [classes.index(each) for each in names]
    if all(isinstance(each, int) and 0 <= each < len(classes) for each in told):
        return list(told)
    other = ", ".join(name for name in names if name not in classes)
    raise RunFailed(
        f"the model knows the classes {', '.join(names)}, and label.classes are {', '.join(classes)}: add {other} to those, or "
        "export a model of them"
    )


def _tensor_of(graph: Any, output: Any) -> str:
    """Return the tensor that an output is: for scikit-learn's maps of probabilities, the one that they are made of."""
    if output.type.HasField("tensor_type"):
        return str(output.name)
    maker = next((node for node in graph.node if output.name in node.output), None)
    if maker is None or maker.op_type != "ZipMap":
        raise RunFailed(f"output {output.name!r} of the model is no tensor: export one float a row")
    graph.node.remove(maker)
    return str(maker.input[0])


def _take(graph: Any, names: Sequence[str], given: _Given, shape: Sequence[int | None]) -> None:
    """Let what is given be an input, in the place of those called `names`."""
    for value in [value for value in graph.input if value.name in names]:
        graph.input.remove(value)
    place = 0 if given.name == INPUT else 1
    graph.input.insert(place, helper.make_tensor_value_info(given.name, given.kind, shape))


def _free(graph: Any, name: str) -> str:
    """Call what a graph itself makes of this name otherwise; return how."""
    _rename(graph, name, other := f"{_PREFIX}own_{name}")
    for tensor in graph.initializer:
        tensor.name = other if tensor.name == name else tensor.name
    return other


def _rename(graph: Any, before: str, after: str) -> None:
    """Call a value of a graph otherwise, also where a graph within reads it."""
    if before == after:
        return
    for node in graph.node:
        node.input[:] = [after if name == before else name for name in node.input]
        node.output[:] = [after if name == before else name for name in node.output]
        for attribute in node.attribute:
            for inner in [attribute.g, *attribute.graphs]:
                if inner.node:
                    _rename(inner, before, after)


def _tensors(graph: Any) -> Iterator[Any]:
    yield from graph.initializer
    for node in graph.node:
        for attribute in node.attribute:
            yield from [attribute.t, *attribute.tensors]
            for inner in [attribute.g, *attribute.graphs]:
                if inner.node:
                    yield from _tensors(inner)


def _is_elsewhere(tensor: Any) -> bool:
    return bool(tensor.data_location == TensorProto.EXTERNAL or tensor.external_data)


def _rank(value: Any) -> int:
    return len(value.type.tensor_type.shape.dim) if value.type.tensor_type.HasField("shape") else 2


def _width(value: Any) -> int | None:
    dims = value.type.tensor_type.shape.dim
    return int(dims[1].dim_value) or None if len(dims) == 2 else None


def called(feature: str) -> tuple[str, str]:
    """Return how an input or a column may call a feature: as the spec does, or in letters, digits and _ alone."""
    name = feature.partition(" = ")[0]
    return name, re.sub(r"\W+", "_", name).strip("_")


def _first_line(error: Exception) -> str:
    return re.sub(r"^\[.*?\] : \d+ : \w+ : ", "", str(error)).strip().partition("\n")[0].rstrip(".")
