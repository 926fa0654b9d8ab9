"""Tensors of the Open Inference Protocol, in both forms in which clients send them.

A request's tensors are all raw (bytes beside the inputs) or all typed (values in the
inputs), never mixed; answers are always raw, for tritonclient cannot read typed ones
as arrays.
"""

import struct
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from trimtab_serving.errors import BadTensor

_SHARED = "shared_memory_region"
_LENGTH = struct.Struct("<I")


def inputs(request: Any) -> Iterator[tuple[Any, bytes | None]]:
    """Yield each input as declared, with its raw content; None where the request is typed.

    Raises:
        BadTensor: raw and typed are mixed.
    """
    declared, raw = request.inputs, request.raw_input_contents
    if not raw:
        return ((each, None) for each in declared)
    if len(raw) != len(declared):
        raise BadTensor(
            f"{len(raw)} raw contents came for {len(declared)} inputs: send one for each, or all of them typed"
        )
    return zip(declared, raw, strict=True)


def features(declared: Any, raw: bytes | None, width: int) -> NDArray[np.float32]:
    """Return an input as float32 [rows, width].

    Raises:
        BadTensor: it has another type or shape.
    """
    if declared.datatype != "FP32":
        raise BadTensor(
            f"input {declared.name!r} is {declared.datatype}, and the model takes FP32: convert it"
        )
    shape = tuple(declared.shape)
    if len(shape) != 2 or shape[1] != width:
        raise BadTensor(
            f"input {declared.name!r} has shape {list(shape)}, and the model takes [rows, {width}]: reshape it"
        )
    values: NDArray[np.float32] = (
        np.array(declared.contents.fp32_contents, np.float32)
        if raw is None
        else _numbers(declared, raw, np.float32)
    )
    if values.size != shape[0] * width:
        _disagree(declared, values.size)
    return values.reshape(shape)


def integers(declared: Any, raw: bytes | None) -> list[int]:
    """Return an INT64 input as a list.

    Raises:
        BadTensor: it has another type, or not as many values as its shape says.
    """
    if declared.datatype != "INT64":
        raise BadTensor(f"input {declared.name!r} is {declared.datatype} and has to be INT64: convert it")
    return _agreeing(
        declared,
        list(declared.contents.int64_contents) if raw is None else _numbers(declared, raw, np.int64).tolist(),
    )


def texts(declared: Any, raw: bytes | None) -> list[str]:
    """Return a BYTES input, in UTF-8, as a list.

    Raises:
        BadTensor: it has another type, or not as many values as its shape says.
    """
    if declared.datatype != "BYTES":
        raise BadTensor(f"input {declared.name!r} is {declared.datatype} and has to be BYTES: convert it")
    try:
        found = [
            value.decode() for value in (declared.contents.bytes_contents if raw is None else _split(raw))
        ]
    except (struct.error, UnicodeDecodeError) as error:
        raise BadTensor(f"input {declared.name!r} holds no UTF-8 texts: {error}; encode it anew") from error
    return _agreeing(declared, found)


def text_columns(declared: Any, raw: bytes | None, width: int) -> NDArray[np.object_]:
    """Return a BYTES input, in UTF-8, as texts [rows, width].

    Raises:
        BadTensor: it has another type or shape.
    """
    shape = tuple(declared.shape)
    if len(shape) != 2 or shape[1] != width:
        raise BadTensor(
            f"input {declared.name!r} has shape {list(shape)}, and the model takes [rows, {width}]: reshape it"
        )
    return np.array(texts(declared, raw), object).reshape(shape)


def _numbers(declared: Any, raw: bytes, dtype: Any) -> NDArray[Any]:
    try:
        return np.frombuffer(raw, dtype)
    except ValueError as error:
        raise BadTensor(
            f"input {declared.name!r} is {len(raw)} bytes, no whole number of values: send all"
        ) from error


def _agreeing(declared: Any, values: list[Any]) -> list[Any]:
    count = 1
    for size in declared.shape:
        count *= size
    if len(values) != count:
        _disagree(declared, len(values))
    return values


def _disagree(declared: Any, found: int) -> None:
    if _SHARED in declared.parameters:
        raise BadTensor(
            f"input {declared.name!r} is in shared memory, which is not read: send it in the request"
        )
    raise BadTensor(
        f"input {declared.name!r} has {found} values and its shape {list(declared.shape)} says otherwise: make them agree"
    )


def _split(content: bytes) -> Sequence[bytes]:
    """Return the elements of a raw BYTES tensor: each has its length before it."""
    found = []
    at = 0
    while at < len(content):
        (length,) = _LENGTH.unpack_from(content, at)
        at += 4 + length
        if at > len(content):
            raise struct.error("an element is shorter than its length says")
        found.append(content[at - length : at])
    return found
