"""Versions that answer: an ONNX file, verified, in a session of its own and warmed.

A `Version` never changes and may be run by many threads at once. One that comes out
of `load` has answered, with as many finite numbers as it was given rows.
"""

import hashlib
import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnxruntime
import pyarrow as pa
from numpy.typing import NDArray

from trimtab_serving.errors import CannotServe

INPUT = "features"
OUTPUT = "prediction"
PROBABILITIES = "probabilities"
_WARM_ROWS = (1, 16)
_EXAMPLES = 8


@dataclass(frozen=True, slots=True, eq=False)
class Version:
    """A warm version: `number`, and what it takes, in order."""

    number: int
    digest: str
    features: tuple[str, ...]
    session: Any
    output: str
    classes: tuple[str, ...] = ()
    """Of a multiclass task; the output is then their probabilities."""

    def run(self, features: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return the predictions [rows] for features [rows, features]; of a multiclass task probabilities [rows, classes]."""
        answer = np.asarray(self.session.run([self.output], {INPUT: features})[0], np.float32)
        return answer if self.classes else answer.reshape(-1)


def load(
    model: str,
    number: int,
    features: Sequence[str],
    onnx: bytes,
    reference: bytes | None = None,
    *,
    classes: Sequence[str] = (),
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
    inputs = {taken.name: taken for taken in session.get_inputs()}
    if set(inputs) != {INPUT} or inputs[INPUT].type != "tensor(float)":
        raise CannotServe(f"{name} takes {sorted(inputs)} and not one float input {INPUT!r}: export it anew")
    width = inputs[INPUT].shape[-1]
    if isinstance(width, int) and width != len(features):
        raise CannotServe(
            f"{name} takes {width} features and its record names {len(features)}: export it anew"
        )
    digest = hashlib.sha256(onnx).hexdigest()
    outputs = [output.name for output in session.get_outputs()]
    of_classes = PROBABILITIES in outputs and len(classes) > 0
    version = Version(
        number,
        digest,
        tuple(features),
        session,
        PROBABILITIES if of_classes else outputs[0],
        tuple(classes) if of_classes else (),
    )
    for rows in _WARM_ROWS:
        _warm(name, version, np.zeros((rows, len(features)), np.float32))
    if reference is not None:
        _warm(name, version, _examples(name, version.features, reference))
    return version


def _options() -> Any:
    """Return settings for throughput: many requests at once, each on the thread that it came on."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.inter_op_num_threads = 1
    options.execution_mode = onnxruntime.ExecutionMode.ORT_SEQUENTIAL
    options.log_severity_level = 3
    return options


def _warm(name: str, version: Version, features: NDArray[np.float32]) -> None:
    try:
        answer = version.run(features)
    except Exception as error:  # ONNX Runtime's own exceptions share no base
        raise CannotServe(f"{name} fails on {len(features)} rows: {error}; export it anew") from error
    if answer.shape != (len(features), len(version.classes))[: answer.ndim]:
        raise CannotServe(f"{name} gives {answer.size} numbers for {len(features)} rows: export it anew")
    if not np.isfinite(answer).all():
        raise CannotServe(f"{name} gives {answer[~np.isfinite(answer)][0]} for known rows: train it again")


def _examples(name: str, features: Sequence[str], reference: bytes) -> NDArray[np.float32]:
    """Return the first rows of a reference, an Arrow IPC stream or file with a column for each feature."""
    try:
        table = _read_arrow(reference).slice(0, _EXAMPLES)
        columns = [table[feature].to_numpy().astype(np.float32) for feature in features]
    except (pa.ArrowException, KeyError) as error:
        raise CannotServe(f"the reference of {name} cannot be read: {error}; train it again") from error
    return np.ascontiguousarray(np.column_stack(columns))


def _read_arrow(content: bytes) -> pa.Table:
    if content.startswith(b"ARROW1"):
        return pa.ipc.open_file(io.BytesIO(content)).read_all()
    return pa.ipc.open_stream(content).read_all()
