"""Texts become numbers in the graph: the same in production as where the model was fitted."""

import json
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pyarrow as pa
import pytest
from trimtab_core.specs import Model, ModelSpec, parse, to_document
from trimtab_trainer import job
from trimtab_training import encoding, export, fitting
from trimtab_training.errors import RunFailed
from trimtab_training.inputs import Inputs

MINUTE = 60_000
FEW = {"random_forest": {"n_estimators": 10}, "hist_gradient_boosting": {"max_iter": 10}}


def a_spec(kind: str = "linear", task: str = "regression", **trainer: Any) -> Model:
    label: dict[str, Any] = {"source": "trips", "on": "id", "value": "y", "within": "1h"}
    spec = {
        "task": task,
        "source": "trips",
        "features": ["request.x", "request.road", "text(request.note)"],
        "rollout": {"cap": 10},
        "label": label | ({"classes": ["a", "b", "c"]} if task == "multiclass" else {}),
        "trainer": {"window": "30d", "kind": kind, "parameters": FEW.get(kind, {}), **trainer},
    }
    model = parse("Model", {"metadata": {"name": "m"}, "spec": spec})
    assert isinstance(model, Model)
    return model


def spec_of(kind: str) -> ModelSpec:
    return a_spec(kind).spec


def some_rows(count: int = 600, *, task: str = "regression") -> fitting.Rows:
    """Return rows whose label is the road's, more where the note says busy, and a little of a number."""
    rng = np.random.default_rng(0)
    road = rng.choice(["north", "south", "east", ""], count, p=[0.5, 0.3, 0.15, 0.05])
    busy = rng.random(count) < 0.4
    numbers = rng.normal(size=(count, 1)).astype(np.float32)
    label = np.select([road == "north", road == "south"], [5.0, -5.0], 0.0) + 3.0 * busy + 0.1 * numbers[:, 0]
    texts = np.empty((count, 2), object)
    texts[:, 0], texts[:, 1] = road, np.where(busy, "very busy, all day", "quiet: some cars")
    features = Inputs(numbers, texts, (False, True))
    classes = {"binary": label > 2, "multiclass": np.digitize(label, [-1, 3])}
    return fitting.Rows(features, np.asarray(classes.get(task, label), float), np.arange(count) * MINUTE)


def encoded(texts: list[str], *, words: bool = False, kind: str = "linear") -> Any:
    """Return a function from texts to the columns that an encoder makes of them, which was fitted to `texts`."""

    def inputs(column: list[str]) -> Inputs:
        return Inputs(
            np.zeros((len(column), 0), np.float32), np.array([[it] for it in column], object), (words,)
        )

    made = encoding.fit(spec_of(kind), inputs(texts))
    return lambda *asked: made.encode(inputs(list(asked))).tolist()


@pytest.mark.parametrize("kind", ["linear", "random_forest", "hist_gradient_boosting"])
@pytest.mark.parametrize("task", ["regression", "binary", "multiclass"])
def test_one_graph_takes_numbers_and_texts_and_says_what_was_fitted(task: Any, kind: str) -> None:
    rows, spec = some_rows(task=task), a_spec(kind, task).spec
    fitted = fitting.fit(spec, rows)

    graph = export.serialised(fitted.to_onnx())
    said = fitted.predict(rows.features)

    export.check(graph, rows.features, said)
    taken = {it.name: it.type for it in onnxruntime.InferenceSession(graph).get_inputs()}
    assert taken == {"features": "tensor(float)", "texts": "tensor(string)"}
    if task == "regression":
        assert np.corrcoef(said, rows.label)[0, 1] > 0.9
    else:
        number = said.argmax(axis=1) if task == "multiclass" else said > 0.5
        assert (number == rows.label).mean() > 0.9


def test_a_model_of_texts_that_another_process_made_is_the_same_to_the_bit() -> None:
    rows = some_rows()
    fitted = fitting.fit(spec_of("linear"), rows)

    sent = pickle.loads(pickle.dumps(fitted))

    assert sent.predict(rows.features).tobytes() == fitted.predict(rows.features).tobytes()
    assert export.serialised(sent.to_onnx()) == export.serialised(fitted.to_onnx())


def test_a_category_is_a_column_for_families_that_multiply_and_a_number_for_trees() -> None:
    seen = ["a"] * 30 + ["b"] * 20 + [""] * 12 + ["rare"] * 2 + ["rarer"]

    columns, number = encoded(seen), encoded(seen, kind="random_forest")

    assert columns("a", "b", "") == [[1, 0, 0, 0], [0, 1, 0, 0], [0, 0, 1, 0]]
    assert columns("rare", "rarer", "never seen") == [[0, 0, 0, 1]] * 3
    assert number("a", "b", "", "rare", "never seen") == [[1], [2], [3], [0], [0]]


def test_words_are_found_between_whatever_is_no_letter_and_weigh_more_if_few_rows_have_them() -> None:
    bag = encoded(["zürich -- fine"] * 20 + ["fine"] * 20 + ["odd"], words=True)

    ((fine, zurich),) = bag("(fine) zürich!")
    assert 0 < fine < zurich
    assert fine**2 + zurich**2 == pytest.approx(1)
    assert bag("zürichberg refined", "", "odd") == [[0, 0]] * 3
    assert bag() == []


def test_what_is_encoded_was_learned_from_the_fitted_rows_alone() -> None:
    rows = some_rows()
    rows.features.texts[300:, 0] = "tomorrow"  # type: ignore[union-attr]
    fitted = fitting.fit(spec_of("random_forest"), rows[np.arange(300)])

    assert isinstance(fitted, fitting.Encoded)
    assert (fitted.encoder.encode(rows.features[300:])[:, 1] == 0).all()  # type: ignore[arg-type]


def test_words_that_nobody_repeats_are_nothing_to_learn_from() -> None:
    with pytest.raises(RunFailed, match="no word is in 5 of the 2 oldest rows"):
        encoded(["one", "two"], words=True)


def test_a_run_tells_which_of_its_features_are_texts(tmp_path: Path) -> None:
    rows = some_rows()
    assert isinstance(rows.features, Inputs)
    table = pa.table(
        {
            "key": [str(at) for at in range(len(rows))],
            "event_time_ms": rows.event_time_ms,
            "request.x": rows.features.numbers[:, 0].astype(np.float64),
            "request.road": pa.array(rows.features.texts[:, 0], pa.string()),
            "text(request.note)": pa.array(rows.features.texts[:, 1], pa.string()),
            "label": rows.label,
        }
    )
    with (
        pa.OSFile(str(tmp_path / "rows.arrow"), "wb") as file,
        pa.ipc.new_stream(file, table.schema) as writer,
    ):
        writer.write_table(table)

    def run(champion: Any) -> Any:
        work = {"model": to_document(a_spec()), "champion": champion}
        (tmp_path / "job.json").write_text(json.dumps(work))
        assert job.main(tmp_path, lambda _: None) == 0
        return json.loads((tmp_path / "result.json").read_text())

    result = run(None)
    assert (result["features"], result["texts"]) == (["request.x"], ["request.road", "text(request.note)"])
    (tmp_path / "champion.onnx").write_bytes((tmp_path / "model.onnx").read_bytes())
    live = {"features": result["features"], "texts": result["texts"], "trained_to_ms": 0}
    again = run(live)
    assert again["metrics"]["champion_mae"] < 1
    with pa.ipc.open_file(tmp_path / "reference.arrow") as reader:
        assert pa.types.is_string(reader.read_all()["request.road"].type)
