"""Several graphs as one, whose answers are the weighted mean of theirs.

Each graph is what `export` lets out. It stays as it is, under names of its own, and is
given its columns of what the whole takes; so the whole is asked like any other graph,
in one run. Its answers are held against those of its parts.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper

from trimtab_training import export
from trimtab_training.errors import RunFailed
from trimtab_training.inputs import Inputs, Matrix, pair

_DIGITS = 8 * float(np.finfo(np.float32).eps)
"""So far from the mean of its parts' answers a whole's may be, relative to the largest of those."""


@dataclass(frozen=True, slots=True)
class Part:
    """A graph that is to be part of another."""

    name: str
    """Who it is, as a fault says it."""
    content: bytes
    weight: float
    """Of its answers in the mean; those of all parts sum to 1."""
    features: tuple[str, ...]
    texts: tuple[str, ...]
    task: str
    classes: tuple[str, ...]


def combined(
    parts: Sequence[Part],
    features: Sequence[str],
    texts: Sequence[str],
    task: str,
    classes: Sequence[str] = (),
) -> bytes:
    """Return the graph that takes these features and texts, and answers with the mean of the parts.

    `classes` are those of a multiclass task, whose probabilities are averaged.

    Raises:
        RunFailed: one of the parts is of another task, has other classes, takes what is not there, or does not go with the others.
    """
    for part in parts:
        _fits(part, features, texts, task, classes)
    whole = helper.make_model(helper.make_graph([], "ensemble", _inputs(features, texts), []), ir_version=0)
    del whole.opset_import[:]
    shape = [-1, len(classes)] if classes else [-1]
    whole.graph.initializer.append(helper.make_tensor("shape", TensorProto.INT64, [len(shape)], shape))
    weighed = [_add(whole, part, f"part{at}_", features, texts) for at, part in enumerate(parts)]
    if classes:
        whole.graph.node.append(helper.make_node("Sum", weighed, ["mean"]))
        export.probabilities_of(whole.graph, "mean", range(len(classes)), len(classes))
    else:
        whole.graph.node.append(helper.make_node("Sum", weighed, ["prediction"]))
        whole.graph.output.append(helper.make_tensor_value_info("prediction", TensorProto.FLOAT, [None]))
    return export.serialised(whole)


def check(
    whole: bytes, parts: Sequence[Part], features: Sequence[str], texts: Sequence[str], rows: Matrix | Inputs
) -> None:
    """Hold the answers of a combined graph against the mean of its parts' own, to the digits that float32 has.

    Raises:
        RunFailed: it cannot be opened, or they differ.
    """
    try:
        said = export.run(whole, rows)
    except Exception as error:  # ONNX Runtime's own exceptions share no base
        raise RunFailed(
            f"{_named(parts)} cannot be one graph ({error}): export them for one opset, and register those"
        ) from error
    answers = [export.run(part.content, _given(part, features, texts, rows)) for part in parts]
    expected: NDArray[np.float64] = sum(part.weight * each for part, each in zip(parts, answers, strict=True))  # type: ignore[assignment]
    limit = _DIGITS * max(float(np.abs(each).max()) for each in answers)
    # What is no number is wrong too.
    if wrong := int((~(np.abs(said - expected) <= limit)).reshape(len(said), -1).any(axis=1).sum()):
        raise RunFailed(
            f"one graph of {_named(parts)} differs from their mean on {wrong} of {len(said)} rows: export them for one "
            "opset, and register those"
        )


def _fits(
    part: Part, features: Sequence[str], texts: Sequence[str], task: str, classes: Sequence[str]
) -> None:
    if part.task != task:
        raise RunFailed(f"{part.name} is of task {part.task}, and the model's is {task}: leave it out")
    if task == "multiclass" and part.classes != tuple(classes):
        raise RunFailed(
            f"{part.name} knows the classes {', '.join(part.classes)}, and label.classes are {', '.join(classes)}: leave it out"
        )
    if gone := [name for name in part.features if name not in features] + [
        name for name in part.texts if name not in texts
    ]:
        raise RunFailed(
            f"{part.name} takes {', '.join(gone)}, which the model's features no longer have: add that to them, or leave "
            "the version out"
        )


def _add(whole: Any, part: Part, prefix: str, features: Sequence[str], texts: Sequence[str]) -> str:
    """Add a part to the whole, and return what its answers, times its weight, are called there."""
    model, graph = onnx.load_model_from_string(part.content), whole.graph
    answer = "probabilities" if part.task == "multiclass" else model.graph.output[0].name
    _prefix(model, prefix)
    graph.node.extend([*_columns(part, prefix, features, texts), *model.graph.node])
    graph.initializer.extend(model.graph.initializer)
    graph.sparse_initializer.extend(model.graph.sparse_initializer)
    whole.functions.extend(model.functions)
    whole.ir_version = max(whole.ir_version, model.ir_version)
    known = {each.domain: each for each in whole.opset_import}
    for each in model.opset_import:
        domain = "" if each.domain == "ai.onnx" else each.domain
        if domain in known:
            known[domain].version = max(known[domain].version, each.version)
        else:
            whole.opset_import.append(helper.make_opsetid(domain, each.version))
    said, weight, weighed = f"{prefix}said", f"{prefix}weight", f"{prefix}weighed"
    graph.initializer.append(helper.make_tensor(weight, TensorProto.FLOAT, [], [part.weight]))
    graph.node.append(helper.make_node("Reshape", [prefix + answer, "shape"], [said]))
    graph.node.append(helper.make_node("Mul", [said, weight], [weighed]))
    return weighed


def _inputs(features: Sequence[str], texts: Sequence[str]) -> list[Any]:
    taken = [helper.make_tensor_value_info("features", TensorProto.FLOAT, [None, len(features)])]
    if texts:
        taken.append(helper.make_tensor_value_info("texts", TensorProto.STRING, [None, len(texts)]))
    return taken


def _columns(part: Part, prefix: str, features: Sequence[str], texts: Sequence[str]) -> Iterator[Any]:
    """Yield what gives a part its columns of what the whole takes."""
    for name, taken, all_there in (("features", part.features, features), ("texts", part.texts, texts)):
        if name == "texts" and not taken:
            continue
        places = f"{prefix}{name}_places"
        at = helper.make_tensor(
            places, TensorProto.INT64, [len(taken)], [all_there.index(it) for it in taken]
        )
        yield helper.make_node("Constant", [], [places], value=at)
        yield helper.make_node("Gather", [name, places], [prefix + name], axis=1)


def _given(
    part: Part, features: Sequence[str], texts: Sequence[str], rows: Matrix | Inputs
) -> Matrix | Inputs:
    numbers, words = pair(rows)
    mine = np.ascontiguousarray(numbers[:, [features.index(name) for name in part.features]])
    if not part.texts:
        return mine
    return Inputs(mine, words[:, [texts.index(name) for name in part.texts]], (False,) * len(part.texts))


def _prefix(model: Any, prefix: str) -> None:
    """Give all that a model calls by a name, functions of its own included, a name that no other model has."""
    own = {(function.domain, function.name) for function in model.functions}
    for function in model.functions:
        function.name = prefix + function.name
        _call_within(function.node, prefix, own)
    _prefix_graph(model.graph, prefix, own)


def _prefix_graph(graph: Any, prefix: str, own: set[tuple[str, str]]) -> None:
    # All names, those of the graphs within too: so each still finds what it means, wherever that is.
    sparse = [tensor.values for tensor in graph.sparse_initializer]
    for named in [*graph.initializer, *sparse, *graph.input, *graph.output, *graph.value_info]:
        named.name = prefix + named.name
    for node in graph.node:
        node.name = prefix + node.name if node.name else ""
        node.input[:] = [prefix + name if name else "" for name in node.input]
        node.output[:] = [prefix + name if name else "" for name in node.output]
        _call(node, prefix, own)
        for inner in _within(node):
            _prefix_graph(inner, prefix, own)


def _call_within(nodes: Sequence[Any], prefix: str, own: set[tuple[str, str]]) -> None:
    """Rename what a function calls; all else in it, graphs within its nodes too, has names that are its own already."""
    for node in nodes:
        _call(node, prefix, own)
        for inner in _within(node):
            _call_within(inner.node, prefix, own)


def _call(node: Any, prefix: str, own: set[tuple[str, str]]) -> None:
    if (node.domain, node.op_type) in own:
        node.op_type = prefix + node.op_type


def _within(node: Any) -> Iterator[Any]:
    for attribute in node.attribute:
        yield from [attribute.g] if attribute.HasField("g") else []
        yield from attribute.graphs


def _named(parts: Sequence[Part]) -> str:
    return " and ".join(part.name for part in parts)
