"""Families of models: each answers as its graph does, the same rows give the same bytes, and refusals are sentences."""

import json
import pickle
import sys
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any, get_args

import numpy as np
import onnxruntime
import pyarrow as pa
import pytest
from trimtab_core.specs import Family, Model, ModelSpec, parse, to_document
from trimtab_trainer import job
from trimtab_training import balancing, export, families, fitting
from trimtab_training.errors import RunFailed
from trimtab_training.progress import Progress, Telling

MINUTE = 60_000
FEW: Mapping[str, dict[str, Any]] = {
    "random_forest": {"n_estimators": 10},
    "hist_gradient_boosting": {"max_iter": 10},
    "lightgbm": {"n_estimators": 20},
    "xgboost": {"n_estimators": 20},
    "neural_network": {"epochs": 20, "hidden": 16},
}
needs_torch = pytest.mark.skipif(find_spec("torch") is None, reason="`make test-torch` has PyTorch")
KINDS = [
    pytest.param(kind, marks=needs_torch if kind == "neural_network" else ()) for kind in get_args(Family)
]
BOOSTED = ["lightgbm", "xgboost"]
BY_MARGINS = [*BOOSTED, pytest.param("neural_network", marks=needs_torch)]


def a_spec(task: str, kind: str, parameters: dict[str, Any] | None = None, **trainer: object) -> ModelSpec:
    return a_model(task, kind, parameters, **trainer).spec


def a_model(task: str, kind: str, parameters: dict[str, Any] | None = None, **trainer: object) -> Model:
    label: dict[str, object] = {"source": "trips", "on": "id", "value": "y", "within": "1h"}
    if task == "multiclass":
        label["classes"] = ["walk", "bike", "bus"]
    spec = {
        "task": task,
        "source": "trips",
        "features": ["request.x"],
        "rollout": {"cap": 4},
        "label": label,
        "trainer": {
            "window": "30d",
            "kind": kind,
            "parameters": FEW.get(kind, {}) if parameters is None else parameters,
            **trainer,
        },
    }
    model = parse("Model", {"metadata": {"name": "m"}, "spec": spec})
    assert isinstance(model, Model)
    return model


def some_rows(task: str, count: int = 600, *, rare: float = 3.0) -> fitting.Rows:
    """Return rows of four features, the last of which is always there; about 15 in 100 are of the rarest class."""
    rng = np.random.default_rng(0)
    features = rng.normal(size=(count, 4)).astype(np.float32)
    features[:, 1] = rng.integers(0, 100, count) / np.float32(100)
    features[:, :3][rng.random((count, 3)) < 0.05] = np.nan
    value = 3 * np.nan_to_num(features[:, 0]).astype(np.float64) + rng.normal(0, 0.5, count)
    labels = {
        "regression": value,
        "binary": (value > rare).astype(np.float64),
        "multiclass": np.digitize(value, [0, rare]).astype(np.float64),
    }
    return fitting.Rows(features, labels[task], np.arange(count) * MINUTE)


def asked(rows: fitting.Rows) -> families.Matrix:
    """Return the rows' features, missing also where none was in the fit."""
    features = rows.features.copy()
    features[::7, 3] = np.nan
    features[::50] = np.nan
    return features


def answers(graph: bytes, features: families.Matrix) -> list[Any]:
    session = onnxruntime.InferenceSession(graph, providers=["CPUExecutionProvider"])
    return list(session.run(None, {"features": features}))


def test_every_family_that_a_spec_may_name_has_a_home() -> None:
    folder = Path(families.__file__).parent

    assert set(families.HOMES) == set(get_args(Family))
    assert all((folder / f"{home}.py").exists() for home in families.HOMES.values())


@pytest.mark.parametrize("balanced", [{}, {"class_weight": "balanced"}], ids=["plain", "balanced"])
@pytest.mark.parametrize("task", ["regression", "binary"])
@pytest.mark.parametrize("kind", KINDS)
def test_every_family_answers_as_its_graph_does(kind: str, task: str, balanced: dict[str, str]) -> None:
    rows = some_rows(task)
    fitted = fitting.fit(a_spec(task, kind, **(balanced if task == "binary" else {})), rows)

    graph = export.serialised(fitted.to_onnx())

    export.check(graph, asked(rows), fitted.predict(asked(rows)))


@pytest.mark.parametrize("kind", KINDS)
def test_a_model_that_another_process_made_is_the_same_to_the_bit(kind: str) -> None:
    rows = some_rows("binary")
    fitted = fitting.fit(a_spec("binary", kind), rows)

    sent = pickle.loads(pickle.dumps(fitted))

    assert sent.predict(asked(rows)).tobytes() == fitted.predict(asked(rows)).tobytes()
    assert export.serialised(sent.to_onnx()) == export.serialised(fitted.to_onnx())


@pytest.mark.parametrize("balanced", [{}, {"class_weight": "balanced"}], ids=["plain", "balanced"])
@pytest.mark.parametrize("kind", BY_MARGINS)
def test_of_many_classes_the_graph_says_the_probabilities_and_the_most_probable(
    kind: str, balanced: dict[str, str]
) -> None:
    rows = some_rows("multiclass")
    fitted = fitting.fit(a_spec("multiclass", kind, **balanced), rows)

    chosen, probabilities = answers(export.serialised(fitted.to_onnx()), asked(rows))

    expected = fitted.predict(asked(rows))
    assert expected.shape == (600, 3)
    np.testing.assert_allclose(probabilities, expected, atol=1e-6)
    assert (chosen == expected.argmax(axis=1)).all()
    assert (expected.argmax(axis=1) == rows.label)[:7].mean() > 0.5


@pytest.mark.parametrize("kind", BY_MARGINS)
def test_a_class_that_no_row_is_of_has_its_column_all_the_same(kind: str) -> None:
    rows = some_rows("multiclass")
    rows.label[rows.label == 1] = 2

    fitted = fitting.fit(a_spec("multiclass", kind, class_weight="balanced"), rows)

    said = fitted.predict(rows.features)
    np.testing.assert_allclose(said.sum(axis=1), 1)
    assert said[:, 1].max() < 0.1


@pytest.mark.parametrize("kind", BOOSTED)
def test_a_fit_to_one_class_alone_is_sure_and_finite(kind: str) -> None:
    rows = some_rows("binary")
    rows.label[:] = 1

    fitted = fitting.fit(a_spec("binary", kind), rows)

    said = fitted.predict(rows.features)
    assert (said > 0.999).all() and np.isfinite(said).all()
    export.check(export.serialised(fitted.to_onnx()), rows.features, said)


@pytest.mark.parametrize("kind", BOOSTED)
def test_values_that_are_neighbours_as_float32_are_told_apart(kind: str) -> None:
    steps = np.arange(16, dtype=np.int32)
    places = np.concatenate([(np.float32([at]).view(np.int32) + steps).view(np.float32) for at in (1, -3e7)])
    features = np.tile(places, 20)[:, None]
    labels = np.random.default_rng(1).normal(size=32)[np.tile(np.arange(32), 20)]
    one_each = (
        {"min_child_samples": 1, "min_child_weight": 0}
        if kind == "lightgbm"
        else {"max_bin": 1024, "max_depth": 12}
    )
    spec = a_spec("regression", kind, {"n_estimators": 60, "learning_rate": 0.5, **one_each})
    fitted = fitting.fit(spec, fitting.Rows(features, labels, np.arange(640)))

    (said,) = answers(export.serialised(fitted.to_onnx()), places[:, None])

    assert len(set(said.tolist())) == 32
    np.testing.assert_allclose(said, labels[:32], atol=0.01)
    np.testing.assert_allclose(said, fitted.predict(places[:, None]), atol=1e-5)


@pytest.mark.parametrize("kind", BY_MARGINS)
def test_an_infinite_feature_is_very_large(kind: str) -> None:
    rows = some_rows("regression")
    rows.features[::9, 0], rows.features[::13, 1] = np.inf, -np.inf
    fitted = fitting.fit(a_spec("regression", kind), rows)

    export.check(export.serialised(fitted.to_onnx()), rows.features, fitted.predict(rows.features))

    far = np.array([[3e38, 0, 0, 0], [np.inf, 0, 0, 0]], np.float32)
    assert len(set(fitted.predict(far).tolist())) == 1


@pytest.mark.parametrize("kind", BY_MARGINS)
def test_labels_far_from_zero_keep_their_digits_beside_a_monster(kind: str) -> None:
    rows = some_rows("regression")
    rows.label[:] = 100_000 + rows.label
    rows.label[5] = 1e12
    parameters = {"epochs": 60} if kind == "neural_network" else None

    fitted = fitting.fit(a_spec("regression", kind, parameters), rows)

    assert np.median(np.abs(fitted.predict(rows.features) - rows.label)) < 1
    (said,) = answers(export.serialised(fitted.to_onnx()), rows.features)
    np.testing.assert_allclose(said, fitted.predict(rows.features), rtol=1e-7)


@pytest.mark.parametrize("kind", BY_MARGINS)
def test_the_same_rows_and_seed_give_the_same_bytes_and_another_seed_others(kind: str) -> None:
    parameters = FEW[kind] | ({} if kind == "neural_network" else {"subsample": 0.5})
    made = [
        export.serialised(
            fitting.fit(a_spec("binary", kind, parameters, seed=seed), some_rows("binary")).to_onnx()
        )
        for seed in (1, 1, 2)
    ]

    assert made[0] == made[1] != made[2]


@pytest.mark.parametrize("kind", BOOSTED)
def test_the_trees_of_a_boosting_are_told_as_its_iterations(kind: str) -> None:
    told: list[Progress] = []

    Telling(told.append, fits=1).counted(fitting.fit)(
        a_spec("binary", kind, {"n_estimators": 3}), some_rows("binary")
    )

    assert [(it.iteration, it.iterations) for it in told] == [(0, 0), (1, 3), (2, 3), (3, 3)]


LOSSGUIDE = {"grow_policy": "lossguide"}


@pytest.mark.parametrize(
    ("kind", "beside", "parameter"),
    [
        *[
            ("lightgbm", beside, parameter)
            for beside, parameter in [
                ({}, {"n_estimators": 7.0}), ({}, {"learning_rate": 0.5}), ({}, {"num_leaves": 3}),
                ({}, {"max_depth": 2}), ({}, {"min_child_samples": 100}), ({}, {"min_child_weight": 90}),
                ({}, {"min_split_gain": 9}), ({}, {"subsample": 0.5}),
                ({"subsample": 0.5}, {"subsample_freq": 5}), ({}, {"colsample_bytree": 0.5}),
                ({}, {"reg_alpha": 5}), ({}, {"reg_lambda": 50}), ({}, {"max_bin": 4}),
                ({}, {"objective": "huber"}), ({"objective": "quantile"}, {"alpha": 0.1}),
            ]
        ],
        *[
            ("xgboost", beside, parameter)
            for beside, parameter in [
                ({}, {"n_estimators": 7.0}), ({}, {"learning_rate": 0.5}), ({}, {"max_depth": 2}),
                (LOSSGUIDE, {"max_leaves": 4}), ({"max_leaves": 4}, LOSSGUIDE), ({}, {"min_child_weight": 50}),
                ({}, {"gamma": 9}), ({}, {"max_delta_step": 0.01}), ({}, {"subsample": 0.5}),
                ({}, {"colsample_bytree": 0.5}), ({}, {"colsample_bylevel": 0.5}), ({}, {"colsample_bynode": 0.5}),
                ({}, {"reg_alpha": 5}), ({}, {"reg_lambda": 50}), ({}, {"max_bin": 4}),
                ({}, {"objective": "reg:squarederror"}),
                ({"objective": "reg:quantileerror"}, {"quantile_alpha": 0.1}),
                ({"objective": "reg:pseudohubererror"}, {"huber_slope": 0.1}),
            ]
        ],
    ],
)  # fmt: skip
def test_each_parameter_changes_the_model(
    kind: str, beside: dict[str, Any], parameter: dict[str, Any]
) -> None:
    # A library lets pass what it does not know: so each is seen to do something.
    rows, few = some_rows("regression", 300), {"n_estimators": 3}
    without, with_it = (
        fitting.fit(a_spec("regression", kind, few | beside | more), rows).predict(rows.features)
        for more in ({}, parameter)
    )

    assert not np.array_equal(without, with_it)


@pytest.mark.parametrize(
    ("kind", "task", "parameters", "said"),
    [
        ("lightgbm", "binary", {"max_iter": 3}, r"max_iter is no parameter of lightgbm here: name one of colsample"),
        ("lightgbm", "binary", {"n_estimators": 2.5}, r"n_estimators: 2\.5 will not do, write a whole number from 1 to"),
        ("lightgbm", "binary", {"n_estimators": True}, r"n_estimators: True will not do"),
        ("lightgbm", "binary", {"subsample": 0}, r"subsample: 0 will not do, write a number over 0 and at most 1"),
        ("lightgbm", "binary", {"reg_alpha": -1}, r"reg_alpha: -1 will not do, write a number of at least 0"),
        ("lightgbm", "binary", {"objective": "huber"}, r"objective is no parameter of lightgbm here"),
        ("lightgbm", "regression", {"objective": "guess"}, r"objective: 'guess' will not do, write one of regression,"),
        ("lightgbm", "binary", {"subsample": 1e-9}, r"lightgbm refuses trainer\.parameters .*num_data.*: change them"),
        ("xgboost", "binary", {"seed": 3}, r"seed is no parameter of xgboost here"),
        ("xgboost", "binary", {"max_depth": "deep"}, r"max_depth: 'deep' will not do, write a whole number from 0 to 64"),
        ("xgboost", "binary", {"gamma": 1e300}, r"xgboost refuses trainer\.parameters .*min_split_loss.*: change them"),
    ],
)  # fmt: skip
def test_a_parameter_that_will_not_do_is_told_with_the_remedy(
    kind: str, task: str, parameters: dict[str, Any], said: str
) -> None:
    with pytest.raises(RunFailed, match=said):
        fitting.fit(a_spec(task, kind, parameters), some_rows(task, 100))


@pytest.mark.parametrize(
    ("kind", "module", "extra"),
    [
        ("lightgbm", "lightgbm", "lightgbm"),
        ("xgboost", "xgboost", "xgboost"),
        ("neural_network", "torch", "torch"),
    ],
)
def test_a_family_that_is_not_installed_is_told_with_what_installs_it(
    kind: Family, module: str, extra: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delitem(sys.modules, f"trimtab_training.families.{families.HOMES[kind]}", raising=False)
    monkeypatch.setitem(sys.modules, module, None)

    with pytest.raises(
        RunFailed,
        match=rf"'{kind}' needs {module}, .*: pip install 'trimtab-trainer\[{extra}\]' where it runs, or",
    ):
        families.of(a_spec("binary", kind))


def test_a_library_that_does_not_load_is_told_with_what_it_may_lack(monkeypatch: pytest.MonkeyPatch) -> None:
    def load(_: str) -> None:
        raise OSError("libgomp.so.1: cannot open shared object file")

    monkeypatch.setattr(families, "import_module", load)

    with pytest.raises(RunFailed, match=r"'lightgbm' cannot be loaded .*libgomp\.so\.1.*: install what"):
        families.of(a_spec("binary", "lightgbm"))


@pytest.mark.parametrize("kind", KINDS)
def test_classes_are_weighed_alike_in_the_fit_and_the_answers_are_of_the_world_as_it_is(kind: str) -> None:
    rows = some_rows("binary", rare=5.0)
    assert rows.label.mean() < 0.06
    plain = fitting.fit(a_spec("binary", kind), rows).predict(rows.features)

    balanced = fitting.fit(a_spec("binary", kind, class_weight="balanced"), rows).predict(rows.features)

    assert not np.array_equal(plain, balanced)
    assert abs(balanced.mean() - rows.label.mean()) < 0.03


def test_the_weights_of_the_classes_come_to_the_same_amounts_with_those_of_age() -> None:
    spec = a_spec("multiclass", "lightgbm", class_weight="balanced")
    labels, by_age = np.array([0.0, 0, 0, 2]), np.array([0.1, 0.2, 0.3, 0.4])

    by_class = balancing.by_class(spec, labels, by_age)

    assert by_class is not None and by_class[1] == 1
    weights = balancing.by_row(by_class, labels, by_age)
    assert weights[:3].sum() == pytest.approx(weights[3]) == pytest.approx(0.5)
    assert balancing.by_class(a_spec("multiclass", "lightgbm"), labels, by_age) is None


@pytest.mark.parametrize("kind", BOOSTED)
def test_a_run_says_which_library_it_rested_on(tmp_path: Path, kind: str) -> None:
    rows = some_rows("binary")
    columns = {"key": [str(at) for at in range(600)], "event_time_ms": rows.event_time_ms}
    columns |= {f"f{at}": rows.features[:, at].astype(np.float64) for at in range(4)} | {"label": rows.label}
    table = pa.table(columns)
    with pa.OSFile(str(tmp_path / "rows.arrow"), "wb") as file, pa.ipc.new_stream(file, table.schema) as to:
        to.write_table(table)
    model = to_document(a_model("binary", kind, class_weight="balanced"))
    (tmp_path / "job.json").write_text(json.dumps({"model": model, "champion": None}))

    assert job.main(tmp_path, lambda _: None) == 0

    made = json.loads((tmp_path / "result.json").read_text())
    assert {"lightgbm": "lightgbm", "xgboost": "xgboost-cpu"}[kind] in made["environment"]
    assert made["parameters"]["class_weight"] == "balanced"
    assert made["metrics"]["log_loss"] < 0.3
