from typing import Any

import numpy as np
import pytest
from trimtab_serving import tensors
from trimtab_serving.errors import BadTensor
from tritonclient.grpc import service_pb2 as pb2

TABLE = np.array([[1, 2], [3, np.nan], [5, 6]], np.float32)


def request(name: str, datatype: str, shape: list[int], *, raw: bytes | None = None, **typed: Any) -> Any:
    message = pb2.ModelInferRequest()
    declared = message.inputs.add(name=name, datatype=datatype, shape=shape)
    if raw is not None:
        message.raw_input_contents.append(raw)
    for field, values in typed.items():
        getattr(declared.contents, field).extend(values)
    return message


def only(asked: Any) -> tuple[Any, bytes | None]:
    [found] = tensors.inputs(asked)
    return found


def test_raw_and_typed_features_are_the_same() -> None:
    raw = request("features", "FP32", [3, 2], raw=TABLE.tobytes())
    typed = request("features", "FP32", [3, 2], fp32_contents=TABLE.ravel())

    np.testing.assert_array_equal(tensors.features(*only(raw), 2), TABLE)
    np.testing.assert_array_equal(tensors.features(*only(typed), 2), TABLE)


def test_raw_and_typed_texts_are_the_same() -> None:
    raw = request("key", "BYTES", [2], raw=b"\x03\0\0\0one\x04\0\0\0zw\xc3\xb6")
    typed = request("key", "BYTES", [2], bytes_contents=[b"one", "zwö".encode()])

    assert tensors.texts(*only(raw)) == tensors.texts(*only(typed)) == ["one", "zwö"]


def test_raw_and_typed_integers_are_the_same() -> None:
    raw = request("event_time_ms", "INT64", [2, 1], raw=np.array([1, -2], np.int64).tobytes())
    typed = request("event_time_ms", "INT64", [2, 1], int64_contents=[1, -2])

    assert tensors.integers(*only(raw)) == tensors.integers(*only(typed)) == [1, -2]


@pytest.mark.parametrize(
    ("asked", "sentence"),
    [
        (request("features", "FP64", [1, 2], raw=bytes(16)), "is FP64, and the model takes FP32"),
        (
            request("features", "FP32", [1, 3], raw=bytes(12)),
            r"has shape \[1, 3\], and the model takes \[rows, 2\]",
        ),
        (request("features", "FP32", [2], raw=bytes(8)), r"has shape \[2\]"),
        (request("features", "FP32", [2, 2], raw=bytes(8)), "has 2 values and its shape"),
        (request("features", "FP32", [1, 2], raw=bytes(7)), "is 7 bytes"),
        (request("features", "FP32", [1, 2]), "has 0 values"),
        (request("features", "FP32", [-1, 2], raw=bytes(8)), "its shape"),
    ],
)
def test_features_that_do_not_fit_are_named(asked: Any, sentence: str) -> None:
    with pytest.raises(BadTensor, match=sentence):
        tensors.features(*only(asked), 2)


@pytest.mark.parametrize(
    "raw", [b"\x09\0\0\0one", b"\x01\0", b"\x02\0\0\0\xff\xfe"], ids=["too short", "torn length", "no UTF-8"]
)
def test_rubbish_is_no_text(raw: bytes) -> None:
    with pytest.raises(BadTensor, match="holds no UTF-8 texts"):
        tensors.texts(*only(request("key", "BYTES", [1], raw=raw)))


def test_raw_and_typed_do_not_mix() -> None:
    mixed = request("features", "FP32", [1, 2], raw=bytes(8))
    mixed.inputs.add(name="key", datatype="BYTES", shape=[1]).contents.bytes_contents.append(b"a")

    with pytest.raises(BadTensor, match="1 raw contents came for 2 inputs"):
        tensors.inputs(mixed)
