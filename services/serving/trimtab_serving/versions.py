"""Versions that answer: an ONNX file, verified, in a session of its own and warmed.

A `Version` never changes and may be run by many threads at once. One that comes out
of `load` has answered, with as many finite numbers as it was given rows.
"""

import hashlib
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnxruntime
import pyarrow as pa
from numpy.typing import NDArray

from trimtab_serving.errors import CannotServe

INPUT = "features"
TEXTS = "texts"
OUTPUT = "prediction"
PROBABILITIES = "probabilities"
_WARM_ROWS = (1, 16)
_EXAMPLES = 8
_BACKGROUND = 100
"""Rows of the reference that are kept for explanations, evenly spread over it."""


@dataclass(frozen=True, slots=True, eq=False)
class Version:
    """A warm version: `number`, and what it takes, in order."""

    number: int
    digest: str
    features: tuple[str, ...]
    session: Any
    output: str
    classes: tuple[str, ...]
    """Of a multiclass task; the output is then their probabilities."""
    texts: tuple[str, ...]
    """What it takes besides that is a text, in order."""
    background: tuple[NDArray[np.float32], NDArray[np.object_]]
    """Rows of its reference, their features and their texts, none where it has none: what a prediction is explained against."""

    @property
    def inputs(self) -> tuple[str, ...]:
        """All that it takes: numbers, and then texts."""
        return self.features + self.texts

    def run(
        self, features: NDArray[np.float32], texts: NDArray[np.object_] | None = None
    ) -> NDArray[np.float32]:
        """Return the predictions [rows] for features [rows, features] and, where it takes some, texts [rows, texts].

        Of a multiclass task they are probabilities [rows, classes].
        """
        given = {INPUT: features, TEXTS: texts} if self.texts else {INPUT: features}
        answer = np.asarray(self.session.run([self.output], given)[0], np.float32)
        return answer if self.classes else answer.reshape(-1)


def load(
    model: str,
    number: int,
    features: Sequence[str],
    onnx: bytes,
    reference: bytes | None = None,
    *,
    classes: Sequence[str] = (),
    texts: Sequence[str] = (),
) -> Version:
    """Open a version and warm it, on zeros and on a few rows of its reference where that is given.

    Raises:
        CannotServe: it is no ONNX model, takes something else than its features, or does not answer as it should.
    """
    name = f"version {number} of model {model!r}"
    try:
        session = onnxruntime.InferenceSession(onnx, _options(), providers=["CPUExecutionProvider"])
    except Exception as error:  # ONNX Runtime's own exceptions share no base
        raise CannotServe(
            f"{name} is no model that ONNX Runtime can open: {error}; train it again"
        ) from error
    _check_inputs(name, session, {INPUT: len(features)} | ({TEXTS: len(texts)} if texts else {}))
    digest = hashlib.sha256(onnx).hexdigest()
    outputs = [output.name for output in session.get_outputs()]
    of_classes = PROBABILITIES in outputs and len(classes) > 0
    numbers, words = _background(name, features, texts, reference)
    version = Version(
        number,
        digest,
        tuple(features),
        session,
        PROBABILITIES if of_classes else outputs[0],
        tuple(classes) if of_classes else (),
        tuple(texts),
        (numbers, words),
    )
    for rows in _WARM_ROWS:
        nothing = np.full((rows, len(texts)), "", object)
        _warm(name, version, np.zeros((rows, len(features)), np.float32), nothing)
    if len(numbers):
        _warm(name, version, numbers[:_EXAMPLES], words[:_EXAMPLES])
    return version


def _check_inputs(name: str, session: Any, widths: Mapping[str, int]) -> None:
    """Refuse a graph that takes something else than columns of numbers and of texts, so many of each."""
    inputs = {taken.name: taken for taken in session.get_inputs()}
    types = {INPUT: "tensor(float)", TEXTS: "tensor(string)"}
    if set(inputs) != set(widths) or any(taken.type != types[each] for each, taken in inputs.items()):
        wanted = f"one float input {INPUT!r}" + (f" and one of strings, {TEXTS!r}" if TEXTS in widths else "")
        raise CannotServe(f"{name} takes {sorted(inputs)} and not {wanted}: export it anew")
    for each, named in widths.items():
        width = inputs[each].shape[-1]
        if isinstance(width, int) and width != named:
            raise CannotServe(f"{name} takes {width} {each} and its record names {named}: export it anew")


def _options() -> Any:
    """Return settings for throughput: many requests at once, each on the thread that it came on."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.inter_op_num_threads = 1
    options.execution_mode = onnxruntime.ExecutionMode.ORT_SEQUENTIAL
    options.log_severity_level = 3
    return options


def _warm(name: str, version: Version, features: NDArray[np.float32], texts: NDArray[np.object_]) -> None:
    try:
        answer = version.run(features, texts)
    except Exception as error:  # ONNX Runtime's own exceptions share no base
        raise CannotServe(f"{name} fails on {len(features)} rows: {error}; export it anew") from error
    if answer.shape != (len(features), len(version.classes))[: answer.ndim]:
        raise CannotServe(f"{name} gives {answer.size} numbers for {len(features)} rows: export it anew")
    if not np.isfinite(answer).all():
        raise CannotServe(f"{name} gives {answer[~np.isfinite(answer)][0]} for known rows: train it again")


def _background(
    name: str, features: Sequence[str], texts: Sequence[str], reference: bytes | None
) -> tuple[NDArray[np.float32], NDArray[np.object_]]:
    """Return some rows of a reference, an Arrow IPC stream or file with a column for each feature; none without one."""
    if reference is None:
        return np.empty((0, len(features)), np.float32), np.empty((0, len(texts)), object)
    try:
        table = _read_arrow(reference)
        places = np.unique(np.linspace(0, len(table), _BACKGROUND, endpoint=False).astype(np.int64))
        some = table.take(places) if len(table) else table
        numbers = np.empty((len(some), len(features)), np.float32)
        words = np.empty((len(some), len(texts)), object)
        for at, each in enumerate(features):
            numbers[:, at] = some[each].to_numpy().astype(np.float32)
        for at, each in enumerate(texts):
            words[:, at] = some[each].to_pylist()
    except (pa.ArrowException, KeyError) as error:
        raise CannotServe(f"the reference of {name} cannot be read: {error}; train it again") from error
    return numbers, words


def _read_arrow(content: bytes) -> pa.Table:
    if content.startswith(b"ARROW1"):
        return pa.ipc.open_file(io.BytesIO(content)).read_all()
    return pa.ipc.open_stream(content).read_all()
