"""Several graphs as one: its answers are the mean of theirs, to the digits of float32, or it is not let out."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper
from trimtab_core.specs import Model, ModelSpec, parse
from trimtab_training import combining, export, fitting
from trimtab_training.combining import Part, combined
from trimtab_training.errors import RunFailed
from trimtab_training.inputs import Inputs, pair

RNG = np.random.default_rng(3)
FEATURES, TEXTS, CLASSES = ("x", "z", "w"), ("request.road", "text(request.note)"), ("walk", "bike", "bus")
ROWS = 400
X = RNG.normal(size=(ROWS, 3)).astype(np.float32)
X[::9, 1] = np.nan
WORDS = np.empty((ROWS, 2), object)
WORDS[:, 0] = RNG.choice(["north", "south", ""], ROWS)
WORDS[:, 1] = RNG.choice(["very busy", "calm and quiet"], ROWS)
ALL = Inputs(X, WORDS, (False, True))
VALUE = 3 * X[:, 0] + (WORDS[:, 0] == "north") + RNG.normal(0, 0.3, ROWS)
LABELS = {
    "regression": VALUE,
    "binary": (VALUE > 1).astype(float),
    "multiclass": np.digitize(VALUE, [-1, 2]).astype(float),
}


def a_spec(task: str, kind: str) -> ModelSpec:
    label: dict[str, Any] = {"source": "trips", "on": "id", "value": "y", "within": "1h"}
    spec = {
        "task": task, "source": "trips", "features": ["request.x"], "rollout": {"cap": 4},
        "label": label | ({"classes": list(CLASSES)} if task == "multiclass" else {}),
        "trainer": {"window": "30d", "kind": kind, "parameters": {"max_iter": 20} if "hist" in kind else {}},
    }  # fmt: skip
    model = parse("Model", {"metadata": {"name": "m"}, "spec": spec})
    assert isinstance(model, Model)
    return model.spec


def a_part(
    task: str, kind: str, weight: float, features: Sequence[str], texts: Sequence[str] = (), **other: Any
) -> Part:
    """Return a version of a kind that was fitted to some of the columns."""
    spec = a_spec(task, kind)
    shown: Any = X[:, [FEATURES.index(name) for name in features]]
    if texts:
        places = [TEXTS.index(name) for name in texts]
        shown = Inputs(shown, WORDS[:, places], tuple(at == 1 for at in places))
    fitted = fitting.fit(spec, fitting.Rows(shown, LABELS[task], np.arange(ROWS)))
    classes = CLASSES if task == "multiclass" else ()
    return part(export.serialised(fitted.to_onnx()), weight, features, texts, task, classes, **other)


def part(
    content: bytes, weight: float, features: Sequence[str] = FEATURES, texts: Sequence[str] = (),
    task: str = "regression", classes: Sequence[str] = (), name: str = "version 3",
) -> Part:  # fmt: skip
    return Part(name, content, weight, tuple(features), tuple(texts), task, tuple(classes))


def a_graph(
    nodes: Sequence[Any], constants: dict[str, Any], *, opset: int = 18, functions: Sequence[Any] = (), domains: Sequence[str] = (),
) -> bytes:  # fmt: skip
    tensors = [onnx.numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()]
    inputs = [helper.make_tensor_value_info("features", TensorProto.FLOAT, [None, 3])]
    outputs = [helper.make_tensor_value_info("prediction", TensorProto.FLOAT, [None])]
    opsets = [helper.make_opsetid("", opset), *(helper.make_opsetid(domain, 1) for domain in domains)]
    graph = helper.make_graph(nodes, "g", inputs, outputs, tensors)
    model = helper.make_model(graph, opset_imports=opsets, ir_version=10, functions=functions)
    return bytes(model.SerializeToString())


def first_column(scale: float = 1.0) -> bytes:
    nodes = [
        helper.make_node("Gather", ["features", "at"], ["column"], axis=1),
        helper.make_node("Mul", ["column", "scale"], ["prediction"]),
    ]
    return a_graph(nodes, {"at": np.array(0), "scale": np.float32(scale)})


@pytest.mark.parametrize("task", ["regression", "binary", "multiclass"])
def test_one_graph_answers_with_the_weighted_mean_of_its_parts(task: Any) -> None:
    parts = [
        a_part(task, "linear", 0.7, ("w", "x"), ("text(request.note)", "request.road")),
        a_part(task, "hist_gradient_boosting", 0.2, FEATURES, ("request.road",)),
        a_part(task, "linear", 0.1, ("x",)),
    ]
    classes = CLASSES if task == "multiclass" else ()
    whole = combined(parts, FEATURES, TEXTS, task, classes)

    combining.check(whole, parts, FEATURES, TEXTS, ALL)
    numbers, texts = pair(ALL)
    first = Inputs(numbers[:, [2, 0]], texts[:, [1, 0]], (True, False))
    second = Inputs(numbers, texts[:, :1], (False,))
    expected = sum(
        each.weight * export.run(each.content, shown)
        for each, shown in zip(parts, [first, second, numbers[:, :1]], strict=True)
    )
    assert export.run(whole, ALL) == pytest.approx(expected, rel=1e-6, abs=1e-6)
    if classes:
        said = export.session(whole).run(["prediction"], {"features": numbers, "texts": texts})[0]
        assert said.tolist() == expected.argmax(axis=1).tolist()  # type: ignore[union-attr]


def test_an_ensemble_can_be_part_of_another() -> None:
    inner = combined([part(first_column(), 0.5), part(first_column(3), 0.5)], FEATURES, (), "regression")
    parts = [part(inner, 0.25), part(first_column(6), 0.75)]
    whole = combined(parts, FEATURES, (), "regression")

    combining.check(whole, parts, FEATURES, (), X)
    assert export.run(whole, X) == pytest.approx(5 * X[:, 0], rel=1e-6)


def test_names_within_a_graph_and_functions_of_its_own_are_nobody_elses() -> None:
    def branches(factor: float) -> bytes:
        """A graph whose branches read constants of the graph around them, by the same names in each."""
        then, other = (
            helper.make_graph(
                [helper.make_node("twice", ["column"], ["out"], domain="own")]
                if name == "then"
                else [helper.make_node("Mul", ["column", "factor"], ["out"])],
                name, [], [helper.make_tensor_value_info("out", TensorProto.FLOAT, [None])],
            )
            for name in ("then", "other")
        )  # fmt: skip
        nodes = [
            helper.make_node("Gather", ["features", "at"], ["column"], axis=1),
            helper.make_node("If", ["chosen"], ["prediction"], then_branch=then, else_branch=other),
        ]
        opsets = [helper.make_opsetid("", 18)]
        doubled = [
            helper.make_node("Constant", [], ["by"], value_float=2 * factor),
            helper.make_node("Mul", ["in", "by"], ["double"]),
        ]
        function = helper.make_function("own", "twice", ["in"], ["double"], doubled, opsets)
        constants = {"at": np.array(0), "factor": np.float32(factor), "chosen": np.array(factor > 1)}
        return a_graph(nodes, constants, functions=[function], domains=["own"])

    parts = [part(branches(1.0), 0.5), part(branches(5.0), 0.5)]
    whole = combined(parts, FEATURES, (), "regression")

    combining.check(whole, parts, FEATURES, (), X)
    assert export.run(whole, X) == pytest.approx((1 + 10) / 2 * X[:, 0], rel=1e-6)


def test_what_a_function_calls_within_its_branches_is_the_graphs_own() -> None:
    def calling(factor: float) -> bytes:
        """A graph whose function calls another of its own from within a branch."""
        opsets = [helper.make_opsetid("", 18), helper.make_opsetid("own", 1)]
        scaled = helper.make_function(
            "own", "scaled", ["in"], ["out"],
            [helper.make_node("Constant", [], ["by"], value_float=factor), helper.make_node("Mul", ["in", "by"], ["out"])],
            opsets[:1],
        )  # fmt: skip
        then, other = (
            helper.make_graph(
                [helper.make_node("scaled", ["in"], ["branch"], domain="own")],
                name, [], [helper.make_tensor_value_info("branch", TensorProto.FLOAT, [None])],
            )
            for name in ("then", "other")
        )  # fmt: skip
        yes = onnx.numpy_helper.from_array(np.array(True))
        chosen = [
            helper.make_node("Constant", [], ["yes"], value=yes),
            helper.make_node("If", ["yes"], ["out"], then_branch=then, else_branch=other),
        ]
        nodes = [
            helper.make_node("Gather", ["features", "at"], ["column"], axis=1),
            helper.make_node("choosing", ["column"], ["prediction"], domain="own"),
        ]
        functions = [scaled, helper.make_function("own", "choosing", ["in"], ["out"], chosen, opsets)]
        return a_graph(nodes, {"at": np.array(0)}, functions=functions, domains=["own"])

    parts = [part(calling(1.0), 0.5), part(calling(5.0), 0.5)]
    whole = combined(parts, FEATURES, (), "regression")

    combining.check(whole, parts, FEATURES, (), X)
    assert export.run(whole, X) == pytest.approx(3 * X[:, 0], rel=1e-6)


@pytest.mark.parametrize(
    ("told", "said"),
    [
        ({"task": "binary"}, "version 3 is of task binary, and the model's is regression: leave it out"),
        ({"features": ("x", "gone", "w")}, "version 3 takes gone, which the model's features no longer have: add that"),
        ({"texts": ("text(gone)",)}, r"version 3 takes text\(gone\), which the model's features no longer have"),
    ],
)  # fmt: skip
def test_what_does_not_fit_the_model_is_told(told: dict[str, Any], said: str) -> None:
    with pytest.raises(RunFailed, match=said):
        combined([part(first_column(), 0.5, **told), part(first_column(), 0.5)], FEATURES, (), "regression")


def test_a_version_of_other_classes_is_told() -> None:
    other = part(b"", 0.5, task="multiclass", classes=("walk", "bike"))
    with pytest.raises(
        RunFailed, match=r"version 3 knows the classes walk, bike, and label\.classes are walk, bike, bus"
    ):
        combined([other, other], FEATURES, (), "multiclass", CLASSES)


def test_a_whole_that_says_something_else_than_its_parts_is_not_let_out() -> None:
    parts = [part(first_column(), 0.5), part(first_column(3), 0.5, name="version 5")]
    other = combined([part(first_column(), 0.5), part(first_column(3.001), 0.5)], FEATURES, (), "regression")

    with pytest.raises(
        RunFailed, match=r"one graph of version 3 and version 5 differs from their mean on [0-9]+ of 400 rows"
    ):
        combining.check(other, parts, FEATURES, (), X)


def test_graphs_that_no_one_opset_has_are_told() -> None:
    # Up to opset 12 the axes of ReduceSum are an attribute, from 13 on an input.
    old = a_graph(
        [helper.make_node("ReduceSum", ["features"], ["prediction"], axes=[1], keepdims=0)], {}, opset=12
    )
    parts = [part(old, 0.5), part(first_column(), 0.5)]

    with pytest.raises((RunFailed, onnx.checker.ValidationError), match="ReduceSum"):
        combining.check(combined(parts, FEATURES, (), "regression"), parts, FEATURES, (), X)
