"""A whole Trimtab for the stories: started once a process of tests, shared, kept apart by project names."""

import json
from collections.abc import Callable, Iterator
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper
from trimtab.cli.session import addresses
from trimtab.testing import World, living
from trimtab_stack.stack import Stack

MakeWorld = Callable[..., AbstractAsyncContextManager[World]]


@pytest.fixture(scope="package")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """Kafka, PostgreSQL and the six services, which end with the last story: at rest they take a quarter of a core."""
    with Stack(tmp_path_factory.mktemp("whole"), fsync=False) as stack:
        yield stack


@pytest.fixture
def make_world(whole: Stack) -> MakeWorld:
    """Make a project of a name, applied and ready to be lived: an async context manager."""

    def make(name: str, *, stack: Stack = whole, **spec: Any) -> AbstractAsyncContextManager[World]:
        return living(name, stack.environ["TRIMTAB_KAFKA_SERVERS"], addresses(stack.environ), **spec)

    return make


@pytest.fixture
def sloping() -> Callable[[float], bytes]:
    """Make a user's model: a graph that says slope * x, which it takes by the feature's name."""

    def make(slope: float) -> bytes:
        value, output = (
            helper.make_tensor_value_info(name, TensorProto.FLOAT, [None, 1]) for name in ("request.x", "y")
        )
        weight = onnx.numpy_helper.from_array(np.array([[slope]], np.float32), "w")
        node = helper.make_node("MatMul", ["request.x", "w"], ["y"])
        graph = helper.make_graph([node], "g", [value], [output], [weight])
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
        return bytes(model.SerializeToString())

    return make


@pytest.fixture
def spans(whole: Stack) -> Callable[[str], list[dict[str, Any]]]:
    """Find all spans of a trace, whichever service wrote them."""

    def find(trace_id: str) -> list[dict[str, Any]]:
        folder = Path(whole.directory) / "traces"
        lines = [
            line
            for file in folder.glob("*.jsonl")
            for line in file.read_text().splitlines()
            if trace_id in line
        ]
        return [span for span in map(json.loads, lines) if span["trace_id"] == trace_id]

    return find
