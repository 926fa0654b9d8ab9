"""Which graphs of users' can serve, in which words they may say so, and what the others are told."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper
from skl2onnx import to_onnx
from sklearn.ensemble import RandomForestClassifier
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.multiclass import OneVsRestClassifier
from trimtab_training import export, signature
from trimtab_training.errors import RunFailed
from trimtab_training.inputs import Inputs

FEATURES = ["request.x", "hour(at)", "fast = request.x * 2"]
X = np.array([[1, 2, 3], [0.5, -2, 7], [4, 4, 4]], np.float32)
"""What `weighted` says of it is x + 10 y + 100 z."""
SAID = X @ np.array([1, 10, 100])
KINDS = {np.float32: TensorProto.FLOAT, np.float64: TensorProto.DOUBLE, np.int64: TensorProto.INT64}


def a_graph(
    nodes: Sequence[Any],
    inputs: Sequence[Any],
    outputs: Sequence[Any],
    constants: dict[str, Any],
    *,
    opset: int = 18,
) -> bytes:
    tensors = [onnx.numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()]
    graph = helper.make_graph(nodes, "g", inputs, outputs, tensors)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=10)
    return bytes(model.SerializeToString())


def value(name: str, shape: Sequence[int | str | None], kind: int = TensorProto.FLOAT) -> Any:
    return helper.make_tensor_value_info(name, kind, shape)


def of_one_input(
    kind: Any = np.float32, name: str = "X", shape: Sequence[Any] = (None, 3), out: str = "y", width: int = 1
) -> bytes:
    weights = np.array([[1.0], [10.0], [100.0]], kind) if width == 1 else np.ones((3, width), kind)
    return a_graph(
        [helper.make_node("MatMul", [name, "w"], [out])],
        [value(name, shape, KINDS[kind])], [value(out, (None, width), KINDS[kind])], {"w": weights},
    )  # fmt: skip


def of_an_input_each(names: Sequence[str], shape: Sequence[Any] = (None, 1), kind: Any = np.float32) -> bytes:
    axis = 0 if len(shape) == 1 else 1
    nodes = [helper.make_node("Mul", [name, f"w{at}"], [f"p{at}"]) for at, name in enumerate(names)]
    nodes.append(helper.make_node("Sum", [f"p{at}" for at in range(len(names))], ["prediction"]))
    weights = {f"w{at}": np.full((1,) * (axis + 1), 10.0**at, kind) for at in range(len(names))}
    inputs = [value(name, shape, KINDS[kind]) for name in names]
    return a_graph(nodes, inputs, [value("prediction", shape, KINDS[kind])], weights)


def answers(content: bytes, task: str = "regression") -> Any:
    return export.run(export.serialised(signature.adapted(content, FEATURES, task)), X)


@pytest.mark.parametrize(
    "content",
    [
        of_one_input(),
        of_one_input(name="features", out="prediction"),
        of_one_input(np.float64),
        of_one_input(np.float64, name="features"),
        of_one_input(shape=("batch", "n")),
        of_an_input_each(["request.x", "hour(at)", "fast"]),
        of_an_input_each(["request_x", "hour_at", "fast"], (None,)),
        of_an_input_each(["request_x", "hour_at", "fast"], kind=np.float64),
    ],
)
def test_what_says_the_same_in_other_words_is_served_as_it_is(content: bytes) -> None:
    assert answers(content) == pytest.approx(SAID)


def test_a_graph_may_call_what_it_makes_as_serving_calls_what_it_gives() -> None:
    nodes = [
        helper.make_node("Identity", ["X"], ["features"]),
        helper.make_node("MatMul", ["features", "prediction"], ["y"]),
    ]
    weights = np.array([[1], [10], [100]], np.float32)
    content = a_graph(nodes, [value("X", (None, 3))], [value("y", (None, 1))], {"prediction": weights})

    assert answers(content) == pytest.approx(SAID)


def test_a_graph_may_leave_features_out_and_take_them_in_its_own_order() -> None:
    assert answers(of_an_input_each(["fast", "request_x"])) == pytest.approx(X[:, 2] + 10 * X[:, 0])


@pytest.mark.parametrize("zipmap", [True, False])
def test_of_scikit_learns_labels_and_probabilities_the_positive_one_is_served(zipmap: bool) -> None:
    fitted = LogisticRegression().fit(X, [0, 1, 1])
    content = to_onnx(
        fitted, X[:1], options={id(fitted): {"zipmap": zipmap}}, target_opset=18
    ).SerializeToString()

    assert answers(content, "binary") == pytest.approx(fitted.predict_proba(X)[:, 1], rel=1e-5)


def test_a_regressor_of_scikit_learns_is_served() -> None:
    fitted = Ridge().fit(X, SAID)

    assert answers(to_onnx(fitted, X[:1], target_opset=18).SerializeToString()) == pytest.approx(
        fitted.predict(X), rel=1e-5
    )


TEXTS = ["request.city", "text(request.note)"]
WORDS = np.array([["ulm", "good"], ["", "bad"], ["bonn", "good"]], object)
WORDS_GOOD = np.array([1, 0, 1])


def of_texts(names: Sequence[str], shape: Sequence[Any], *, numbers: str = "") -> bytes:
    """Return a graph that counts how many of its texts are `good`, and adds a number of its own if it takes some."""
    nodes, good = [], np.array(["good"], object)
    for at, name in enumerate(names):
        nodes.append(helper.make_node("Equal", [name, "good"], [f"is{at}"]))
        nodes.append(helper.make_node("Cast", [f"is{at}"], [f"as{at}"], to=TensorProto.FLOAT))
        nodes.append(helper.make_node("ReduceSum", [f"as{at}", "axis"], [f"sum{at}"], keepdims=1))
    parts = [f"sum{at}" for at in range(len(names))]
    inputs = [value(name, shape, TensorProto.STRING) for name in names]
    if numbers:
        nodes.append(helper.make_node("MatMul", [numbers, "w"], ["weighted"]))
        parts.append("weighted")
        inputs.insert(0, value(numbers, (None, 3)))
    nodes.append(helper.make_node("Sum", parts, ["y"]))
    constants = {"good": good, "axis": np.array([1]), "w": np.array([[1], [10], [100]], np.float32)}
    return a_graph(nodes, inputs, [value("y", (None, 1))], constants, opset=19)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (of_texts(["words"], (None, 2)), [1, 0, 1]),
        (of_texts(["texts"], (None, 2)), [1, 0, 1]),
        (of_texts(["features"], (None, 2), numbers="texts"), SAID + WORDS_GOOD),
        (of_texts(["request.city", "text(request.note)"], (None, 1)), [1, 0, 1]),
        (of_texts(["text_request_note"], (None, 1), numbers="X"), SAID + WORDS_GOOD),
        (of_texts(["request_city"], (None, 1)), [0, 0, 0]),
        (of_one_input(), SAID),
    ],
    ids=["one matrix", "by our name", "by each other's names", "one each", "one left out", "no numbers", "no texts"],
)  # fmt: skip
def test_texts_come_as_a_matrix_of_their_own_or_one_each_beside_the_numbers(
    content: bytes, said: Any
) -> None:
    graph = export.serialised(signature.adapted(content, FEATURES, "regression", texts=TEXTS))

    asked = Inputs(X, WORDS, (False, True))
    assert export.run(graph, asked) == pytest.approx(np.asarray(said))


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (of_texts(["words"], (None, 3)), r"takes 3 columns, and this model has 2 texts \(request.city, text"),
        (of_texts(["request_city", "note"], (None, 1)), r"takes 'note', which is none of the texts of this model .*string input \[rows, texts\]"),
    ],
)  # fmt: skip
def test_texts_that_cannot_be_given_are_told(content: bytes, said: str) -> None:
    with pytest.raises(RunFailed, match=said):
        signature.adapted(content, FEATURES, "regression", texts=TEXTS)


CLASSES = ["low", "mid", "high"]
MANY = np.vstack([X, X + 1, X * 2, -X])


@pytest.mark.parametrize(
    ("labels", "zipmap"),
    [
        (["low", "mid", "high"], True),
        (["low", "mid", "high"], False),
        (["mid", "mid", "high"], False),
        ([0, 1, 2], True),
        ([0, 2, 2], False),
    ],
)
def test_classes_of_scikit_learns_get_their_own_columns_by_name_or_by_number(
    labels: list[Any], zipmap: bool
) -> None:
    fitted = LogisticRegression().fit(MANY, labels * 4)
    options = {id(fitted): {"zipmap": zipmap}}
    content = to_onnx(fitted, X[:1], options=options, target_opset=18).SerializeToString()

    graph = export.serialised(signature.adapted(content, FEATURES, "multiclass", classes=CLASSES))

    wanted = np.zeros((len(MANY), 3))
    for at, each in enumerate(fitted.classes_):
        wanted[:, CLASSES.index(each) if isinstance(each, str) else each] = fitted.predict_proba(MANY)[:, at]
    assert export.run(graph, MANY) == pytest.approx(wanted, abs=1e-5)
    first = export.session(graph).run(None, {"features": MANY})[0]
    assert first.tolist() == wanted.argmax(axis=1).tolist()


@pytest.mark.parametrize(
    "estimator",
    [RandomForestClassifier(n_estimators=3, random_state=0), OneVsRestClassifier(LogisticRegression())],
)
def test_other_classifiers_and_probabilities_without_names_are_served(estimator: Any) -> None:
    fitted = estimator.fit(MANY, ["low", "mid", "high"] * 4)
    forest = to_onnx(fitted, X[:1], target_opset=18, options={"zipmap": False}).SerializeToString()
    plain = a_graph(
        [helper.make_node("Softmax", ["X"], ["probabilities"]), helper.make_node("ArgMax", ["X"], ["most_probable"], axis=1)],
        [value("X", (None, 3))],
        [value("probabilities", (None, 3)), value("most_probable", (None, 1), TensorProto.INT64)],
        {},
    )  # fmt: skip
    by_name = {name: at for at, name in enumerate(fitted.classes_)}

    found = export.run(
        export.serialised(signature.adapted(forest, FEATURES, "multiclass", classes=CLASSES)), MANY
    )
    answer = export.run(
        export.serialised(signature.adapted(plain, FEATURES, "multiclass", classes=CLASSES)), X
    )

    said = fitted.predict_proba(MANY)[:, [by_name[name] for name in CLASSES]]
    assert found == pytest.approx(said, abs=1e-5)
    assert answer == pytest.approx(np.exp(X) / np.exp(X).sum(axis=1, keepdims=True), abs=1e-5)


def test_classes_that_are_not_the_models_are_told() -> None:
    other = LogisticRegression().fit(MANY, ["low", "mid", "top"] * 4)
    content = to_onnx(other, X[:1], target_opset=18).SerializeToString()
    with pytest.raises(
        RunFailed, match=r"knows the classes low, mid, top, and .* low, mid, high: add top to"
    ):
        signature.adapted(content, FEATURES, "multiclass", classes=CLASSES)
    with pytest.raises(
        RunFailed, match=r"has 2 numbers a row, and this model has 3 classes \(low, mid, high\)"
    ):
        signature.adapted(of_one_input(width=2), FEATURES, "multiclass", classes=CLASSES)
    labels = a_graph(
        [helper.make_node("ArgMax", ["X"], ["y"], axis=1)],
        [value("X", (None, 3))],
        [value("y", (None, 1), TensorProto.INT64)],
        {},
    )
    with pytest.raises(
        RunFailed, match="output 'y' of the model is int64 of 2 dimensions, and the probabilities"
    ):
        signature.adapted(labels, FEATURES, "multiclass", classes=CLASSES)


def newer_than_the_runtime() -> bytes:
    model = onnx.load_model_from_string(of_one_input())
    model.opset_import[0].version = 99
    return bytes(model.SerializeToString())


def with_a_tensor_elsewhere() -> bytes:
    model = onnx.load_model_from_string(of_one_input())
    tensor = model.graph.initializer[0]
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value="../../etc/passwd")
    return bytes(model.SerializeToString())


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"not a model", "the file is no ONNX model"),
        (b"", "the file is no ONNX model"),
        (newer_than_the_runtime(), r"cannot open the model \(IR version 10; opset ai\.onnx 99\): .*export it with opset 18"),
        (with_a_tensor_elsewhere(), "tensor 'w' of the model is in another file: save it as one"),
        (of_one_input(shape=(None, 4)), "cannot open the model|takes 4 columns"),
        (of_one_input(np.int64), r"input 'X' of the model is int64, and a feature is a float"),
        (of_one_input(shape=(1, 3)), "takes exactly 1 rows at a time, .*dynamic_axes"),
        (of_one_input(width=2), "output 'y' of the model has 2 numbers a row, and one is wanted"),
        (of_an_input_each(["request.x", "speed"]), r"takes 'speed', which is none of the features of this model \(request\.x, "),
        (of_an_input_each(["request.x", "fast"], (None, 2)), "takes 2 columns, and this model has one column for a feature"),
        (of_an_input_each(["request.x", "fast"], (None, 1, 1)), "has 3 dimensions, and rows of features have 2"),
    ],
)  # fmt: skip
def test_what_cannot_serve_is_told_what_to_change(content: bytes, said: str) -> None:
    with pytest.raises(RunFailed, match=said):
        signature.adapted(content, FEATURES, "regression")


def test_labels_without_probabilities_are_told_what_to_export() -> None:
    nodes = [
        helper.make_node("ReduceMax", ["X"], ["m"], axes=[1]),
        helper.make_node("Cast", ["m"], ["y"], to=TensorProto.INT64),
    ]
    content = a_graph(
        nodes, [value("X", (None, 3))], [value("y", (None, 1), TensorProto.INT64)], {}, opset=13
    )

    with pytest.raises(
        RunFailed,
        match="output 'y' of the model is int64, and the probability of the positive class is wanted",
    ):
        signature.adapted(content, FEATURES, "binary")


def test_a_name_that_a_graph_within_reads_is_changed_there_too() -> None:
    inner = helper.make_graph(
        [helper.make_node("MatMul", ["features", "w"], ["z"])],
        "then",
        [],
        [value("z", (None, 1), TensorProto.DOUBLE)],
    )
    other = helper.make_graph(
        [helper.make_node("MatMul", ["features", "w"], ["z2"])],
        "else",
        [],
        [value("z2", (None, 1), TensorProto.DOUBLE)],
    )
    nodes = [helper.make_node("If", ["yes"], ["prediction"], then_branch=inner, else_branch=other)]
    constants = {"yes": np.array(True), "w": np.array([[1.0], [10.0], [100.0]])}
    content = a_graph(
        nodes,
        [value("features", (None, 3), TensorProto.DOUBLE)],
        [value("prediction", (None, 1), TensorProto.DOUBLE)],
        constants,
    )

    assert answers(content) == pytest.approx(SAID)
