"""What tests of serving share: tiny models, and a version on a board without the rest of the service."""

from collections.abc import Sequence


def linear_model(weights: Sequence[float], bias: float = 0.0) -> bytes:
    """Return an ONNX model that answers `features @ weights + bias`; a missing feature counts as 0."""
    from onnx import TensorProto, helper

    graph = helper.make_graph(
        [
            helper.make_node("IsNaN", ["features"], ["missing"]),
            helper.make_node("Where", ["missing", "zero", "features"], ["known"]),
            helper.make_node("MatMul", ["known", "weights"], ["weighted"]),
            helper.make_node("Add", ["weighted", "bias"], ["prediction"]),
        ],
        "linear",
        [helper.make_tensor_value_info("features", TensorProto.FLOAT, [None, len(weights)])],
        [helper.make_tensor_value_info("prediction", TensorProto.FLOAT, [None])],
        [
            helper.make_tensor("zero", TensorProto.FLOAT, [], [0.0]),
            helper.make_tensor("weights", TensorProto.FLOAT, [len(weights)], weights),
            helper.make_tensor("bias", TensorProto.FLOAT, [], [bias]),
        ],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    return bytes(model.SerializeToString())
