"""How texts become numbers: a graph, made from the rows that a model is fitted to and from no others.

The graph takes `features` and `texts` and makes the matrix that a family fits. It is
run to make that matrix, and is then put before the family's own graph: what a model is
trained on was made by what will make it in production.

A category becomes a number by how frequent it is, 0 for those that are rare and those
that were never seen, or a column each for families that multiply (`_BY_COLUMN`). Words
become the columns of a bag of words, weighted by how few rows have them (tf-idf).
"""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from trimtab_core.specs import ModelSpec
from trimtab_runtime.ort import onnxruntime

from trimtab_training.errors import RunFailed
from trimtab_training.export import OPSET
from trimtab_training.inputs import Inputs, Matrix, given

_BY_COLUMN = frozenset({"linear", "neural_network"})
"""Families to which a category of twice the number would be twice as much."""
_LEAST_ROWS = 10
"""A category that fewer rows have is folded together with the others of its kind."""
_MOST_CATEGORIES = 100
_LEAST_ROWS_OF_A_WORD = 5
_MOST_WORDS = 200
_WORD = r"[\p{L}\p{N}]+"
_AT_ONCE = 4_096
"""Rows that are encoded together: a batch of texts is as wide as the longest."""
_IR_VERSION = 9

Texts = NDArray[np.object_]


@dataclass(slots=True)
class _Parts:
    """A graph that is being made, and the names of the columns of its matrix."""

    nodes: list[Any] = field(default_factory=list)
    constants: list[Any] = field(default_factory=list)
    columns: list[str] = field(default_factory=list)

    def node(self, op: str, *inputs: str, domain: str = "", **attributes: Any) -> str:
        """Add a node, and return the name of what it makes."""
        made = f"encoder_{len(self.nodes)}"
        self.nodes.append(helper.make_node(op, list(inputs), [made], domain=domain, **attributes))
        return made

    def constant(self, value: Any, dtype: Any) -> str:
        """Add a constant, and return its name."""
        name = f"encoder_constant_{len(self.constants)}"
        self.constants.append(numpy_helper.from_array(np.array(value, dtype), name))
        return name


class Encoder:
    """Makes a matrix float32 [rows, columns] of inputs."""

    def __init__(self, parts: _Parts, numbers: int, texts: int) -> None:
        """`numbers` and `texts` are how many of each a row has."""
        self._parts, self._numbers, self._texts = parts, numbers, texts
        graph = helper.make_graph(
            [*parts.nodes, self._joined("matrix")],
            "encoder",
            self._taken(),
            [helper.make_tensor_value_info("matrix", TensorProto.FLOAT, [None, None])],
            parts.constants,
        )
        opsets = [helper.make_opsetid("", OPSET), helper.make_opsetid("com.microsoft", 1)]
        model = helper.make_model(graph, opset_imports=opsets, ir_version=_IR_VERSION)
        self._session = _session(model)

    def __reduce__(self) -> tuple[type["Encoder"], tuple[_Parts, int, int]]:
        """Return what it is made of: a session is for one process."""
        return Encoder, (self._parts, self._numbers, self._texts)

    def encode(self, inputs: Inputs) -> Matrix:
        """Return the matrix."""
        if not len(inputs):
            nothing = np.full((1, self._texts), "", object)
            return self.encode(Inputs(np.zeros((1, self._numbers), np.float32), nothing, inputs.words))[:0]
        parts = [
            self._session.run(None, given(inputs[start : start + _AT_ONCE]))[0]
            for start in range(0, len(inputs), _AT_ONCE)
        ]
        return np.concatenate(parts)

    def before(self, model: Any) -> Any:
        """Return a family's graph with this one before it: it takes `features` and `texts`, and gives what it gave."""
        made = onnx.ModelProto()
        made.CopyFrom(model)
        graph = made.graph
        for node in graph.node:
            node.input[:] = ["encoder_matrix" if name == "features" else name for name in node.input]
        family = list(graph.node)
        del graph.node[:], graph.input[:]
        graph.node.extend([*self._parts.nodes, self._joined("encoder_matrix"), *family])
        graph.initializer.extend(self._parts.constants)
        graph.input.extend(self._taken())
        if not any(it.domain == "com.microsoft" for it in made.opset_import):
            made.opset_import.append(helper.make_opsetid("com.microsoft", 1))
        return made

    def _joined(self, name: str) -> Any:
        return helper.make_node("Concat", self._parts.columns, [name], axis=1)

    def _taken(self) -> list[Any]:
        return [
            helper.make_tensor_value_info("features", TensorProto.FLOAT, [None, self._numbers]),
            helper.make_tensor_value_info("texts", TensorProto.STRING, [None, self._texts]),
        ]


def fit(spec: ModelSpec, inputs: Inputs) -> Encoder:
    """Return the encoder that the rows of `inputs` make for the family of `spec`.

    Raises:
        RunFailed: there is nothing to learn from.
    """
    parts = _Parts()
    if inputs.numbers.shape[1]:
        parts.columns.append("features")
    for at, words in enumerate(inputs.words):
        column = inputs.texts[:, at]
        if words:
            _words(parts, at, column)
        else:
            _category(parts, at, column, by_column=spec.trainer.kind in _BY_COLUMN)
    if not parts.columns:
        raise RunFailed(
            f"no word is in {_LEAST_ROWS_OF_A_WORD} of the {len(inputs)} oldest rows, and there are no other features: "
            "name some more, or widen trainer.window"
        )
    return Encoder(parts, inputs.numbers.shape[1], inputs.texts.shape[1])


def _category(parts: _Parts, at: int, column: Texts, *, by_column: bool) -> None:
    seen = Counter(column.tolist())
    ranked = sorted(seen, key=lambda name: (-seen[name], name))[:_MOST_CATEGORIES]
    kept = [name for name in ranked if seen[name] >= _LEAST_ROWS] or ranked[:1]
    text = parts.node("Gather", "texts", parts.constant([at], np.int64), axis=1)
    which = _counts(parts, text, kept, [1.0] * len(kept))
    if not by_column:
        codes = np.arange(1, len(kept) + 1).reshape(-1, 1)
        parts.columns.append(parts.node("MatMul", which, parts.constant(codes, np.float32)))
        return
    known = parts.node("MatMul", which, parts.constant(np.ones((len(kept), 1)), np.float32))
    parts.columns += [which, parts.node("Sub", parts.constant(1.0, np.float32), known)]


def _words(parts: _Parts, at: int, column: Texts) -> None:
    rows = Counter[str]()
    for words in _words_of(column):
        rows.update(set(words))
    ranked = sorted(rows, key=lambda word: (-rows[word], word))[:_MOST_WORDS]
    kept = [word for word in ranked if rows[word] >= _LEAST_ROWS_OF_A_WORD]
    if not kept:
        return
    weights = [float(np.log((1 + len(column)) / (1 + rows[word])) + 1) for word in kept]
    text = parts.node("Gather", "texts", parts.constant(at, np.int64), axis=1)
    bag = _counts(parts, _tokenized(parts, text), kept, weights)
    squares = parts.node(
        "MatMul", parts.node("Mul", bag, bag), parts.constant(np.ones((len(kept), 1)), np.float32)
    )
    length = parts.node("Max", parts.node("Sqrt", squares), parts.constant(1e-6, np.float32))
    parts.columns.append(parts.node("Div", bag, length))


def _words_of(column: Texts) -> Iterator[Sequence[str]]:
    """Yield the words of each text, as the graph will find them."""
    parts = _Parts()
    found = helper.make_node("Identity", [_tokenized(parts, "text")], ["words"])
    graph = helper.make_graph(
        [*parts.nodes, found],
        "words",
        [helper.make_tensor_value_info("text", TensorProto.STRING, [None])],
        [helper.make_tensor_value_info("words", TensorProto.STRING, [None, None])],
    )
    opsets = [helper.make_opsetid("", OPSET), helper.make_opsetid("com.microsoft", 1)]
    session = _session(helper.make_model(graph, opset_imports=opsets, ir_version=_IR_VERSION))
    for start in range(0, len(column), _AT_ONCE):
        for words in session.run(None, {"text": column[start : start + _AT_ONCE]})[0].tolist():
            yield [word for word in words if word]


def _tokenized(parts: _Parts, text: str) -> str:
    return parts.node(
        "Tokenizer", text, domain="com.microsoft", mark=0, pad_value="", tokenexp=_WORD, mincharnum=1
    )


def _counts(parts: _Parts, texts: str, known: Sequence[str], weights: Sequence[float]) -> str:
    """Add a node that counts, in texts [rows, any], how often each of `known` is there, times its weight."""
    return parts.node(
        "TfIdfVectorizer", texts,
        mode="TFIDF", weights=list(weights), pool_strings=list(known), ngram_counts=[0],
        ngram_indexes=list(range(len(known))), min_gram_length=1, max_gram_length=1, max_skip_count=0,
    )  # fmt: skip


def _session(model: Any) -> Any:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
