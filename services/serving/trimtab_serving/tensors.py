"""Tensors of the Open Inference Protocol, in both forms in which clients send them.

A request's tensors are all raw (bytes beside the inputs) or all typed (values in the
inputs), never mixed; answers are always raw, for tritonclient cannot read typed ones
as arrays.
"""

import struct
from typing import Any

import numpy as np
from numpy.typing import NDArray

from trimtab_serving.errors import BadTensor

_DTYPES: dict[str, Any] = {"FP32": np.float32, "INT64": np.int64}
_TYPED = {"FP32": "fp32_contents", "INT64": "int64_contents", "BYTES": "bytes_contents"}


def features(request: Any, at: int, width: int) -> NDArray[np.float32]:
    """Return input number `at` of a request as float32 [rows, width].

    Raises:
        BadTensor: it has another type or shape.
    """
    declared = request.inputs[at]
    shape = declared.shape
    if declared.datatype != "FP32":
        raise BadTensor(f"input {declared.name!r} is {declared.datatype}, and the model takes FP32: convert it")
    if len(shape) != 2 or shape[1] != width:
        raise BadTensor(
            f"input {declared.name!r} has shape {list(shape)}, and the model takes [rows, {width}]: reshape it"
        )
    return _numbers(request, at, shape[0] * width).reshape(shape[0], width)


def integers(request: Any, at: int) -> list[int]:
    """Return input number `at` of a request, INT64, as a list.

    Raises:
        BadTensor: it has another type, or not as many values as its shape says.
    """
    declared = request.inputs[at]
    if declared.datatype != "INT64":
        raise BadTensor(f"input {declared.name!r} is {declared.datatype} and has to be INT64: convert it")
    found: list[int] = _numbers(request, at, _count(declared.shape)).tolist()
    return found


def texts(request: Any, at: int) -> list[str]:
    """Return input number `at` of a request, BYTES in UTF-8, as a list.

    Raises:
        BadTensor: it has another type, or not as many values as its shape says.
    """
    declared = request.inputs[at]
    if declared.datatype != "BYTES":
        raise BadTensor(f"input {declared.name!r} is {declared.datatype} and has to be BYTES: convert it")
    content = _content(request, at)
    try:
        found = [value.decode() for value in (_split(content) if isinstance(content, bytes) else content)]
    except (struct.error, UnicodeDecodeError) as error:
        raise BadTensor(f"input {declared.name!r} holds no UTF-8 texts: {error}; encode it anew") from error
    _agree(declared, len(found))
    return found


def _numbers(request: Any, at: int, count: int) -> NDArray[Any]:
    declared = request.inputs[at]
    dtype = _DTYPES[declared.datatype]
    content = _content(request, at)
    if not isinstance(content, bytes):
        values: NDArray[Any] = np.array(content, dtype)
    elif len(content) % np.dtype(dtype).itemsize:
        raise BadTensor(f"input {declared.name!r} is {len(content)} bytes, which is no number of values: send all")
    else:
        values = np.frombuffer(content, dtype)
    if len(values) != count:
        _agree(declared, len(values))
    return values


def _content(request: Any, at: int) -> Any:
    """Return the bytes of a raw input, or the values of a typed one."""
    declared = request.inputs[at]
    if raw := request.raw_input_contents:
        if len(raw) != len(request.inputs):
            raise BadTensor(
                f"{len(raw)} raw contents came for {len(request.inputs)} inputs: send one for each, or all of them typed"
            )
        return raw[at]
    return getattr(declared.contents, _TYPED[declared.datatype])


def _count(shape: Any) -> int:
    count = 1
    for size in shape:
        count *= size
    return count


def _agree(declared: Any, found: int) -> None:
    if found != _count(declared.shape):
        raise BadTensor(
            f"input {declared.name!r} has {found} values and its shape {list(declared.shape)} says otherwise: "
            "make them agree"
        )


def _split(content: bytes) -> list[bytes]:
    """Return the elements of a raw BYTES tensor: each has its length before it."""
    found = []
    at = 0
    while at < len(content):
        (length,) = struct.unpack_from("<I", content, at)
        if at + 4 + length > len(content):
            raise struct.error("an element is shorter than its length says")
        found.append(content[at + 4 : at + 4 + length])
        at += 4 + length
    return found
