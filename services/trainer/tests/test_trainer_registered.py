"""A model that a person brings along is judged by the same steps as one that is fitted."""

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from onnx import TensorProto, helper
from trimtab_core.specs import parse, to_document
from trimtab_trainer import job
from trimtab_trainer.sandbox import Files
from trimtab_trainer.usecases.entities import Part, Registered, StoredFile
from trimtab_training import export
from trimtab_training.inputs import Inputs
from trimtab_training.progress import Progress

MINUTE, ROWS = 60_000, 600
RNG = np.random.default_rng(0)
X = RNG.normal(size=(ROWS, 2))
LABEL = 3 * X[:, 0] + RNG.normal(0, 0.3, ROWS)


def a_model(*, weights: tuple[float, float] = (3, 0), shape: tuple[int | None, int] = (None, 2)) -> bytes:
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["features", "w"], ["prediction"])], "g",
        [helper.make_tensor_value_info("features", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("prediction", TensorProto.FLOAT, (None, 1))],
        [onnx.numpy_helper.from_array(np.array(weights, np.float32).reshape(2, 1), "w")],
    )  # fmt: skip
    return bytes(
        helper.make_model(
            graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10
        ).SerializeToString()
    )


def some_reference(**columns: Any) -> pa.Table:
    x = RNG.normal(size=(200, 2))
    return pa.table({"request.x": x[:, 0], "request_z": x[:, 1], "label": 3 * x[:, 0]} | columns)


class Bench:
    """A job's folder, in which a model is registered."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.store = folder / "job", Files(folder)
        self.folder.mkdir()
        self.task = "regression"
        self.label = LABEL
        self.features = X.copy()
        self.texts: dict[str, Any] = {}
        self.classes: list[str] = []

    def stored(self, content: bytes) -> StoredFile:
        (path := self.folder.parent / "sent").write_bytes(content)
        return self.store.put(path)

    def register(
        self, content: bytes, *, trained_to_ms: int | None = None, reference: pa.Table | bytes | None = None
    ) -> None:
        sent = None
        if reference is not None:
            path = self.folder.parent / "reference"
            path.write_bytes(reference) if isinstance(reference, bytes) else pq.write_table(reference, path)
            sent = self.store.put(path)
        unasked: Any = None
        self.store.bring(
            Registered(self.stored(content), sent, trained_to_ms, "model.onnx"), unasked, self.folder
        )

    def combine(self, *contents: bytes, trained_to_ms: int = 490 * MINUTE, **told: Any) -> None:
        known = {"features": ("request.x", "request.z"), "texts": (), "task": self.task, "classes": ()} | told
        weights = [(1 + at) / sum(range(1, 1 + len(contents))) for at in range(len(contents))]
        parts = [
            Part(3 + at, f"run-{3 + at}", weight, self.stored(content), **known)
            for at, (content, weight) in enumerate(zip(contents, weights, strict=True))
        ]
        unasked: Any = None
        origin = "versions 3 (0.3333) and 4 (0.6667)"
        self.store.bring(Registered(None, None, trained_to_ms, origin, tuple(parts)), unasked, self.folder)

    def run(self) -> dict[str, Any]:
        spec = {
            "task": self.task,
            "source": "trips",
            "features": ["request.x", "request.z", *self.texts],
            "rollout": {"cap": 10},
            "label": {"source": "trips", "on": "id", "value": "y", "within": "1h", "classes": self.classes},
            "trainer": {"window": "30d", "kind": "linear"},
            "evidence": {"learning_curve": True},
        }
        model = parse("Model", {"metadata": {"name": "m"}, "spec": spec})
        (self.folder / "job.json").write_text(json.dumps({"model": to_document(model)}))
        table = pa.table(
            {"key": [str(at) for at in range(ROWS)], "event_time_ms": np.arange(ROWS) * MINUTE}
            | {
                "request.x": self.features[:, 0],
                "request.z": self.features[:, 1],
                **self.texts,
                "label": self.label,
            }
        )
        with (
            pa.OSFile(str(self.folder / "rows.arrow"), "wb") as file,
            pa.ipc.new_stream(file, table.schema) as writer,
        ):
            writer.write_table(table)
        self.told: list[Progress] = []
        job.main(self.folder, self.told.append)
        result: dict[str, Any] = json.loads((self.folder / "result.json").read_text())
        return result

    def read(self, name: str) -> pa.Table:
        with pa.ipc.open_file(self.folder / name) as reader:
            return reader.read_all()


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path)


def test_it_is_what_is_judged_and_let_out(bench: Bench) -> None:
    bench.register(a_model())
    result = bench.run()

    assert result["metrics"]["mae"] == pytest.approx(np.abs(3 * X[480:, 0] - LABEL[480:]).mean(), rel=1e-5)
    assert result["parameters"] == {
        "kind": "registered", "origin": "model.onnx", "sha256": bench.stored(a_model()).digest,
    }  # fmt: skip
    assert bench.read("evaluation.arrow")["prediction"].to_numpy() == pytest.approx(3 * X[480:, 0], rel=1e-5)
    assert bench.read("reference.arrow").num_rows == ROWS
    kept = json.loads(bench.read("reference.arrow").schema.metadata[b"examples"])
    assert len(kept["rows"]) == 8
    assert np.ravel(kept["answers"]) == pytest.approx(3 * X[kept["rows"], 0], rel=1e-5)
    served = (bench.folder / "model.onnx").read_bytes()
    assert export.run(served, X.astype(np.float32)) == pytest.approx(3 * X[:, 0], rel=1e-5)
    assert result["trained_to_ms"] == (ROWS - 1) * MINUTE  # nobody said, so it may have seen it all
    assert json.loads((bench.folder / "evidence.json").read_text())["learning"] == []  # nothing is fitted


def test_it_is_judged_beside_the_champion(bench: Bench) -> None:
    (bench.folder / "champion.onnx").write_bytes(a_model(weights=(2, 0)))
    bench.register(a_model())
    bench.run()
    document = json.loads((bench.folder / "job.json").read_text())
    live = {"features": ["request.x", "request.z"], "trained_to_ms": 100 * MINUTE}
    (bench.folder / "job.json").write_text(json.dumps(document | {"champion": live}))
    job.main(bench.folder, bench.told.append)

    metrics = json.loads((bench.folder / "result.json").read_text())["metrics"]
    assert metrics["mae"] < 0.4 < metrics["champion_mae"]


def test_it_is_judged_by_rows_that_are_newer_than_its_own_training(bench: Bench) -> None:
    bench.register(a_model(), trained_to_ms=490 * MINUTE)
    result = bench.run()

    assert bench.read("evaluation.arrow")["event_time_ms"][0].as_py() == 491 * MINUTE
    assert bench.read("reference.arrow").num_rows == 109
    assert result["trained_to_ms"] == 490 * MINUTE


def test_its_reference_is_the_data_that_came_with_it(bench: Bench) -> None:
    reference = some_reference(event_time_ms=np.arange(200)[::-1] * MINUTE)
    bench.register(a_model(weights=(2, 0)), reference=reference)
    bench.run()

    found = bench.read("reference.arrow")
    assert found.column_names == ["request.x", "request.z", "prediction", "loss", "event_time_ms", "label"]
    assert found["event_time_ms"].to_pylist() == [at * MINUTE for at in range(200)]
    assert found["request.x"].to_numpy() == pytest.approx(reference["request.x"].to_numpy()[::-1], rel=1e-5)
    assert found["loss"].to_numpy() == pytest.approx(np.abs(found["request.x"].to_numpy()), rel=1e-4)


@pytest.mark.parametrize(
    ("reference", "said"),
    [
        (b"rubbish", "the reference data is no Parquet that can be read"),
        (
            some_reference().drop_columns(["request_z"]),
            r"has no column request\.z: give it one for each feature, and label",
        ),
        (some_reference().drop_columns(["label"]), "has no column label"),
        (some_reference().slice(0, 20), "has 20 rows, and it takes 100 to say what is usual"),
        (some_reference(label=[None] * 3 + [1.0] * 197), "label is missing in 3 rows of the reference data"),
        (
            some_reference(label=["a"] * 200),
            "column label of the reference data is string, and a number is wanted",
        ),
    ],
)
def test_reference_data_that_will_not_do_is_told(bench: Bench, reference: Any, said: str) -> None:
    bench.register(a_model(), reference=reference)

    error = bench.run()["error"]
    assert re.search(said, error), error


def test_a_model_that_cannot_serve_is_told_why(bench: Bench) -> None:
    bench.register(a_model(shape=(1, 2)))

    assert "takes exactly 1 rows at a time" in bench.run()["error"]


def test_an_answer_that_is_blank_where_a_feature_is_missing_is_told(bench: Bench) -> None:
    bench.features[::10, 1] = np.nan
    bench.register(a_model())

    error = bench.run()["error"]
    assert "the model gives nan for 60 of 600 rows, where request.z may be missing" in error
    assert "let the graph itself put something in its place" in error


def test_what_is_no_probability_is_told(bench: Bench) -> None:
    bench.task, bench.label = "binary", (LABEL > 0).astype(float)
    bench.register(a_model())

    assert "and the task is binary: export the probability of the positive class" in bench.run()["error"]


CLASSES = ["low", "mid", "high"]
WORDS = np.where(RNG.random(ROWS) < 0.3, "up", "down").astype(object)


def of_classes(*, softmax: bool = True) -> bytes:
    """Return a graph of three classes: x says high, z says mid, and the word `up` says high too."""
    nodes = [
        helper.make_node("MatMul", ["features", "w"], ["weighted"]),
        helper.make_node("Equal", ["words", "up"], ["is_up"]),
        helper.make_node("Cast", ["is_up"], ["as_number"], to=TensorProto.FLOAT),
        helper.make_node("MatMul", ["as_number", "lift"], ["lifted"]),
        helper.make_node("Add", ["weighted", "lifted"], ["all"]),
        helper.make_node("Softmax" if softmax else "Identity", ["all"], ["probabilities"]),
    ]
    constants = {
        "w": np.array([[0, 0, 3], [0, 3, 0]], np.float32),
        "up": np.array(["up"], object),
        "lift": np.array([[0, 0, 4]], np.float32),
    }
    graph = helper.make_graph(
        nodes, "g",
        [helper.make_tensor_value_info("features", TensorProto.FLOAT, [None, 2]),
         helper.make_tensor_value_info("words", TensorProto.STRING, [None, 1])],
        [helper.make_tensor_value_info("probabilities", TensorProto.FLOAT, [None, 3])],
        [onnx.numpy_helper.from_array(value, name) for name, value in constants.items()],
    )  # fmt: skip
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 19)], ir_version=10)
    return bytes(model.SerializeToString())


@pytest.fixture
def classed(bench: Bench) -> Bench:
    """A bench of three classes and a text, in whose rows the graph above is mostly right."""
    bench.task, bench.classes = "multiclass", CLASSES
    bench.texts = {"text(request.word)": WORDS}
    scores = np.column_stack([np.zeros(ROWS), 3 * X[:, 1], 3 * X[:, 0] + 4 * (WORDS == "up")])
    bench.label = (scores + RNG.gumbel(size=scores.shape)).argmax(axis=1).astype(float)
    return bench


def a_reference_of_classes(**columns: Any) -> pa.Table:
    names = np.array(CLASSES, object)[np.arange(200) % 3]
    found = some_reference().drop_columns(["label"]).to_pydict()
    return pa.table(found | {"text_request_word": ["up", None] * 100, "label": names} | columns)


def test_a_model_of_classes_and_texts_is_judged_and_let_out(classed: Bench) -> None:
    classed.register(of_classes(), reference=a_reference_of_classes())
    result = classed.run()

    assert "error" not in result, result
    assert result["metrics"]["error_rate"] < 0.3
    assert (result["classes"], result["texts"]) == (CLASSES, ["text(request.word)"])
    shown = Inputs(X.astype(np.float32), WORDS[:, None], (True,))
    said = export.run((classed.folder / "model.onnx").read_bytes(), shown)
    assert said.shape == (ROWS, 3) and said.sum(axis=1) == pytest.approx(1)
    usual = classed.read("reference.arrow")
    assert usual["text(request.word)"].to_pylist()[:2] == ["up", ""]
    assert usual["loss"].to_numpy().mean() > 1, "its labels were drawn by lot"
    chances = np.array(usual["probabilities"].to_pylist())
    assert usual["label"].to_pylist()[:4] == [0, 1, 2, 0]
    assert -np.log(chances[0, 0]) == pytest.approx(usual["loss"][0].as_py())


@pytest.mark.parametrize(
    ("reference", "said"),
    [
        (a_reference_of_classes(label=["low", "top"] * 100), "label of the reference data is top in some rows, and the classes are low, mid"),
        (a_reference_of_classes(label=["low", None] * 100), "label is missing in 100 rows"),
        (a_reference_of_classes(text_request_word=[1] * 200), "column text_request_word of the reference data is int64, and a text"),
        (a_reference_of_classes().drop_columns(["text_request_word"]), r"has no column text\(request\.word\)"),
    ],
)  # fmt: skip
def test_reference_data_of_classes_that_will_not_do_is_told(
    classed: Bench, reference: pa.Table, said: str
) -> None:
    classed.register(of_classes(), reference=reference)

    assert re.search(said, error := classed.run()["error"]), error


def test_scores_that_are_no_probabilities_of_classes_are_told(classed: Bench) -> None:
    classed.register(of_classes(softmax=False))

    assert "give probabilities, which sum to 1 (a softmax)" in classed.run()["error"]


def test_too_few_rows_to_judge_it_by_are_told(bench: Bench) -> None:
    bench.register(a_model(), trained_to_ms=580 * MINUTE)

    assert bench.run()["error"].startswith("19 labelled rows are newer than what the model was trained on")


def test_the_mean_of_versions_is_judged_by_rows_that_none_of_them_has_seen(bench: Bench) -> None:
    bench.combine(a_model(weights=(0, 0)), a_model(weights=(4.5, 0)))
    result = bench.run()

    assert result["metrics"]["mae"] == pytest.approx(np.abs(3 * X[491:, 0] - LABEL[491:]).mean(), rel=1e-5)
    assert result["trained_to_ms"] == 490 * MINUTE
    assert result["parameters"]["kind"] == "ensemble"
    served = (bench.folder / "model.onnx").read_bytes()
    assert export.run(served, X.astype(np.float32)) == pytest.approx(3 * X[:, 0], rel=1e-5)
    kept = json.loads(bench.read("reference.arrow").schema.metadata[b"examples"])
    assert len(kept["rows"]) == 8


def test_versions_that_cannot_be_one_are_told_why(bench: Bench) -> None:
    bench.combine(a_model(), a_model(), features=("request.x", "request.gone"))
    assert bench.run()["error"].startswith(
        "version 3 takes request.gone, which the model's features no longer have"
    )

    bench.combine(a_model(), a_model(), task="binary")
    assert bench.run()["error"].startswith("version 3 is of task binary, and the model's is regression")

    bench.combine(a_model(), a_model(), trained_to_ms=580 * MINUTE)
    said = "19 labelled rows are newer than what one of versions 3 (0.3333) and 4 (0.6667) was trained on, and it takes 100"
    assert bench.run()["error"] == f"{said} to judge it: wait for more"
