"""Fits that see no future, and exports that say what was fitted."""

from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import onnxruntime
import pyarrow as pa
import pyarrow.compute as pc
import pytest
from google.protobuf import json_format
from google.protobuf.struct_pb2 import Struct
from trimtab_core.specs import Model, ModelSpec, parse
from trimtab_trainer import job, sandbox
from trimtab_trainer.nursery import Nursery
from trimtab_trainer.sandbox import ChildProcess, Files
from trimtab_trainer.usecases.entities import Champion, Recipe, TrainingSet
from trimtab_training import choosing, export, fitting, reference
from trimtab_training.errors import RunFailed
from trimtab_training.families import scikit
from trimtab_training.fitting import Effort
from trimtab_training.progress import Progress, Stage, Tell, Telling

MINUTE = 60_000
CLASSES = ["bad", "fair", "good", "superb"]


@pytest.fixture
def without_a_child(monkeypatch: pytest.MonkeyPatch) -> None:
    """Do the job here: most tests are not about the process."""

    async def run(folder: Path, tell: Tell, **_: object) -> int:
        return job.main(folder, tell)

    monkeypatch.setattr(sandbox, "run", run)


def untold(_: Progress) -> None:
    """Take no notice of how far it is."""


def some_rows(count: int = 600, *, task: str = "regression", seed: int = 0) -> fitting.Rows:
    rng = np.random.default_rng(seed)
    features = rng.normal(size=(count, 4)).astype(np.float32)
    features[rng.random((count, 4)) < 0.05] = np.nan
    label = 3 * np.nan_to_num(features[:, 0]).astype(np.float64) + rng.normal(0, 0.3, count)
    classes = {"binary": label > 0, "multiclass": np.digitize(label, [-1.5, 1.5])}
    return fitting.Rows(features, np.asarray(classes.get(task, label), np.float64), np.arange(count) * MINUTE)


def lived(spec: ModelSpec, rows: fitting.Rows, judged: slice) -> Any:
    """Return the predictions of the judged rows, nothing being known of a change."""
    windows = (choosing.Window.HISTORY,)
    return choosing.judge(
        spec, rows, judged, windows, None, lambda *_: np.zeros(0), Effort(), fitting.fit
    ).predictions


def test_nothing_the_fit_sees_was_known_later_than_the_first_judged_row() -> None:
    rows = some_rows(100)

    spec = a_model(holdout=0.2).spec
    judged = fitting.held_out(rows, spec)
    known = fitting.known(rows, judged.start, spec)

    assert judged == slice(80, 100)
    assert rows.event_time_ms[known][-1] + spec.label.within < rows.event_time_ms[judged][0]


def test_a_world_that_changed_within_the_held_out_rows_is_learned_within_them() -> None:
    rows = some_rows(1200)
    rows.label[1000:] += 50.0
    spec = a_model(holdout=0.2, half_life="10m").spec
    judged = fitting.held_out(rows, spec)

    said = lived(spec, rows, judged)

    lost = np.abs(said - rows.label[judged])
    assert lost[:40].mean() < 1
    assert lost[-80:].mean() < 10 < lost[40:160].mean()


@pytest.mark.parametrize("kind", ["linear", "random_forest", "hist_gradient_boosting"])
@pytest.mark.parametrize("task", ["regression", "binary", "multiclass"])
def test_the_exported_graph_says_what_was_fitted(
    task: str, kind: Literal["linear", "random_forest", "hist_gradient_boosting"]
) -> None:
    rows = some_rows(task=task)
    few = {"random_forest": {"n_estimators": 10}, "hist_gradient_boosting": {"max_iter": 10}}
    spec = a_model(task, kind=kind, parameters=few.get(kind, {}), half_life="1h").spec
    estimator = fitting.fit(spec, rows)

    graph = export.serialised(estimator.to_onnx())

    export.check(graph, rows.features, estimator.predict(rows.features))


@pytest.mark.parametrize("kind", ["linear", "random_forest", "hist_gradient_boosting"])
@pytest.mark.parametrize("seen", [(0, 2), (0, 1, 3)])
def test_a_class_that_was_not_seen_has_no_chance_and_the_others_keep_their_numbers(
    kind: str, seen: tuple[int, ...]
) -> None:
    rows = some_rows(task="multiclass" if len(seen) == 3 else "binary")
    rows = replace(rows, label=np.array(seen, np.float64)[rows.label.astype(int)])
    few = {"random_forest": {"n_estimators": 10}, "hist_gradient_boosting": {"max_iter": 10}}
    fitted = fitting.fit(a_model("multiclass", kind=kind, parameters=few.get(kind, {})).spec, rows)

    said = fitted.predict(rows.features)
    graph = export.serialised(fitted.to_onnx())

    assert said.shape == (len(rows), len(CLASSES))
    assert (said.argmax(axis=1) == rows.label).mean() > 0.8
    assert set(range(len(CLASSES))) - set(np.flatnonzero(said.any(axis=0))) == set(range(4)) - set(seen)
    assert said.sum(axis=1) == pytest.approx(1)
    export.check(graph, rows.features, said)
    session = onnxruntime.InferenceSession(graph)
    assert [output.name for output in session.get_outputs()] == ["prediction", "probabilities"]
    number, chances = session.run(None, {"features": rows.features})
    assert (number.dtype, number.tolist()) == (np.float32, chances.argmax(axis=1).tolist())


@pytest.mark.parametrize("task", ["binary", "multiclass"])
def test_rows_of_one_label_alone_are_a_sentence_with_the_remedy(task: str) -> None:
    rows = replace(some_rows(), label=np.ones(600))

    with pytest.raises(RunFailed, match=r"have one label, (fair|1), so .*: widen trainer\.window"):
        fitting.fit(a_model(task).spec, rows)


def test_a_graph_that_says_something_else_is_not_let_out() -> None:
    rows = some_rows()
    estimator = fitting.fit(a_model().spec, rows)
    graph = export.serialised(estimator.to_onnx())

    with pytest.raises(RunFailed, match="other answers than were judged"):
        export.check(graph, rows.features, estimator.predict(rows.features) + 0.1)
    with pytest.raises(RunFailed, match="by up to nan"):
        export.check(
            graph, rows.features, np.where(np.arange(600) == 7, np.nan, estimator.predict(rows.features))
        )


def test_a_graph_is_checked_by_rows_from_the_oldest_to_the_newest_however_many_there_are() -> None:
    few, many = np.arange(600)[:, None].astype(np.float32), np.arange(90_000)[:, None].astype(np.float32)

    assert np.array_equal(export.to_check(few), few)
    shown = np.asarray(export.to_check(many))[:, 0]
    assert (len(shown), shown[0], shown[-1]) == (20_000, 0, 89_999)
    assert set(np.diff(shown)) == {4, 5}


def test_the_trees_of_a_forest_are_told_as_its_iterations() -> None:
    told: list[Progress] = []
    spec = a_model(kind="random_forest", parameters={"n_estimators": 3}).spec

    Telling(told.append, fits=1).counted(fitting.fit)(spec, some_rows(100))

    assert [(it.iteration, it.iterations) for it in told] == [(0, 0), (1, 3), (2, 3), (3, 3)]


@pytest.mark.parametrize(
    ("kind", "parameters", "taken"),
    [
        (
            "hist_gradient_boosting",
            {"max_iter": 20.0, "learning_rate": 1.0},
            {"max_iter": 20, "learning_rate": 1.0},
        ),
        (
            "hist_gradient_boosting",
            {"max_depth": 3.0, "early_stopping": True},
            {"max_depth": 3, "early_stopping": True},
        ),
        (
            "random_forest",
            {"n_estimators": 10.0, "max_features": 1.0},
            {"n_estimators": 10, "max_features": 1.0},
        ),
        ("random_forest", {"n_estimators": 5, "max_features": 2.0}, {"n_estimators": 5, "max_features": 2}),
        ("linear", {"alpha": 2.0}, {"alpha": 2.0}),
    ],
)
def test_a_number_that_has_been_through_json_is_what_the_estimator_takes(
    kind: str, parameters: dict[str, Any], taken: dict[str, Any]
) -> None:
    travelled = json_format.MessageToDict(json_format.ParseDict(parameters, Struct()))

    fitted = fitting.fit(a_model(kind=kind, parameters=travelled).spec, some_rows(100))

    assert isinstance(fitted, scikit.Estimator)
    estimator = fitted.estimator
    found = (estimator.steps[-1][1] if hasattr(estimator, "steps") else estimator).get_params()
    assert {name: (found[name], type(found[name])) for name in taken} == {
        name: (value, type(value)) for name, value in taken.items()
    }


@pytest.mark.usefixtures("without_a_child")
@pytest.mark.parametrize(
    ("parameters", "said"),
    [
        (
            {"max_itr": 3},
            r"trainer\.parameters\.max_itr is no parameter of HistGradientBoostingRegressor here: name one of",
        ),
        ({"random_state": 3}, r"trainer\.parameters\.random_state is no parameter"),
        ({"max_iter": 2.5}, r"trainer\.parameters\.max_iter: .* must be an int .* Got 2\.5"),
        ({"loss": "guess"}, r"trainer\.parameters\.loss: .* Got 'guess'"),
    ],
)
async def test_a_parameter_that_will_not_do_is_told(
    tmp_path: Path, parameters: dict[str, Any], said: str
) -> None:
    model = a_model(kind="hist_gradient_boosting", parameters=parameters)

    with pytest.raises(RunFailed, match=said):
        await ChildProcess(Nursery()).fit(a_recipe(model), a_training_set(tmp_path), tmp_path, untold)


def test_unseen_predictions_do_not_know_the_answers() -> None:
    rng = np.random.default_rng(1)
    noise = fitting.Rows(
        rng.normal(size=(400, 4)).astype(np.float32), rng.normal(size=400), np.arange(400) * MINUTE
    )
    spec = a_model(kind="random_forest", parameters={"n_estimators": 20}, holdout=0.25).spec
    judged = fitting.held_out(noise, spec)
    said, whole = lived(spec, noise, judged), slice(0, len(noise))

    unseen = reference.unseen(
        spec, noise, judged, said, whole, choosing.Window.HISTORY, None, Effort(), fitting.fit
    )

    assert abs(np.corrcoef(unseen, noise.label)[0, 1]) < 0.2


def a_model(task: str = "regression", **trainer: object) -> Model:
    spec: dict[str, Any] = {
        "task": task,
        "source": "trips",
        "features": ["request.x"],
        "rollout": {"cap": 10},
        "label": {"source": "trips", "on": "id", "value": "y", "within": "1h"},
        "trainer": {"window": "30d", "kind": "linear", **trainer},
    }
    if task == "multiclass":
        spec["label"] |= {"classes": CLASSES}
    model = parse("Model", {"metadata": {"name": "m"}, "spec": spec})
    assert isinstance(model, Model)
    return model


def a_recipe(model: Model, champion: Champion | None = None, **more: Any) -> Recipe:
    return Recipe(model, 1, 600 * MINUTE, champion, **more)


def a_training_set(
    folder: Path, count: int = 600, *, task: str = "regression", other: int = 0
) -> TrainingSet:
    rows = some_rows(count, task=task)
    columns = {"key": [str(at) for at in range(count)], "event_time_ms": rows.event_time_ms}
    columns |= {f"f{at}": rows.features[:, at].astype(np.float64) for at in range(4)} | {"label": rows.label}
    table = pa.table(columns)
    with pa.OSFile(str(folder / "rows.arrow"), "wb") as file, pa.ipc.new_stream(file, table.schema) as writer:
        writer.write_table(table)
    return TrainingSet(folder / "rows.arrow", (("events/trips", 1),), "digest", count, other)


async def test_a_child_process_makes_a_candidate_beside_the_champion(
    tmp_path: Path, nursery: Nursery
) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    first.mkdir(), second.mkdir()
    made = await ChildProcess(nursery).fit(a_recipe(a_model()), a_training_set(first), first, untold)
    champion = Champion(1, Files(tmp_path).put(made.model), made.features)

    model, told = a_model(kind="hist_gradient_boosting", parameters={"max_iter": 5}), []
    again = await ChildProcess(nursery).fit(
        a_recipe(model, champion), a_training_set(second), second, told.append
    )

    assert again.metrics["champion_mae"] < 0.5
    fits = [Progress(Stage.FITTING, fit, 7, at, 5 if at else 0) for fit in range(1, 8) for at in range(6)]
    assert told == [*fits, *map(Progress, (Stage.EVALUATING, Stage.EXPORTING, Stage.EXPLAINING))]
    assert "fitting 7 of 7" in (second / "log").read_text()
    with pa.ipc.open_file(again.evaluation) as reader:
        evaluation = reader.read_all()
    assert evaluation.num_rows == 120
    assert evaluation["champion_prediction"].null_count == 0
    with pa.ipc.open_file(again.reference) as reader:
        assert reader.read_all().column_names == [
            "f0",
            "f1",
            "f2",
            "f3",
            "prediction",
            "loss",
            "event_time_ms",
            "label",
        ]


@pytest.mark.usefixtures("without_a_child")
@pytest.mark.parametrize(("trained_to", "asked"), [(479, 120), (499, 100), (500, 120)])
async def test_the_champion_is_judged_by_rows_it_was_not_fitted_to_if_there_are_enough(
    tmp_path: Path, trained_to: int, asked: int
) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    rows = a_training_set(folder)
    first = await ChildProcess(Nursery()).fit(a_recipe(a_model()), rows, folder, untold)
    champion = Champion(
        1, Files(tmp_path).put(first.model), first.features, trained_to_ms=trained_to * MINUTE
    )

    made = await ChildProcess(Nursery()).fit(a_recipe(a_model(), champion), rows, folder, untold)

    with pa.ipc.open_file(made.evaluation) as reader:
        evaluation = reader.read_all()
    assert evaluation.num_rows - evaluation["champion_prediction"].null_count == asked
    told = evaluation.filter(pc.is_valid(evaluation["champion_prediction"]))
    wrong = pc.abs(pc.subtract(told["champion_prediction"], told["label"]))
    assert made.metrics["champion_mae"] == pytest.approx(pc.mean(wrong).as_py())


@pytest.mark.usefixtures("without_a_child")
async def test_a_candidate_of_classes_is_told_with_all_chances_beside_the_champions(tmp_path: Path) -> None:
    rows, model = a_training_set(tmp_path, task="multiclass"), a_model("multiclass")
    first = await ChildProcess(Nursery()).fit(a_recipe(model), rows, tmp_path, untold)
    champion = Champion(1, Files(tmp_path).put(first.model), first.features, trained_to_ms=499 * MINUTE)

    made = await ChildProcess(Nursery()).fit(a_recipe(model, champion), rows, tmp_path, untold)

    assert made.classes == tuple(CLASSES)
    assert made.metrics["error_rate"] < 0.25 > made.metrics["champion_error_rate"]
    with pa.ipc.open_file(made.evaluation) as reader:
        evaluation = reader.read_all()
    chances = np.stack(evaluation["probabilities"].to_numpy(zero_copy_only=False))
    assert evaluation["prediction"].to_pylist() == chances.argmax(axis=1).tolist()
    wrong = pc.mean(pc.not_equal(evaluation["prediction"], evaluation["label"])).as_py()
    assert made.metrics["error_rate"] == pytest.approx(wrong)
    assert evaluation["champion_prediction"].null_count == 20
    with pa.ipc.open_file(made.reference) as reader:
        reference = reader.read_all()
    assert set(reference["prediction"].to_pylist()) == {0.0, 1.0, 2.0}
    assert 0 < pc.mean(reference["loss"]).as_py() < 1

    before = await ChildProcess(Nursery()).fit(a_recipe(a_model(), champion), rows, tmp_path, untold)
    assert "champion_mae" not in before.metrics, "the live version is of another task"


@pytest.mark.usefixtures("without_a_child")
async def test_rows_of_other_classes_are_told_where_too_few_are_left(tmp_path: Path) -> None:
    rows = a_training_set(tmp_path, 50, task="multiclass", other=7)

    with pytest.raises(RunFailed, match=r"7 rows have a label that is none of bad, .*: add it to label"):
        await ChildProcess(Nursery()).fit(a_recipe(a_model("multiclass")), rows, tmp_path, untold)


@pytest.mark.usefixtures("without_a_child")
async def test_too_few_rows_are_a_sentence_with_the_remedy(tmp_path: Path) -> None:
    with pytest.raises(RunFailed, match=r"50 labelled rows and trainer\.min_rows is 200"):
        await ChildProcess(Nursery()).fit(a_recipe(a_model()), a_training_set(tmp_path, 50), tmp_path, untold)


async def test_a_run_that_takes_too_long_is_ended(tmp_path: Path, nursery: Nursery) -> None:
    with pytest.raises(RunFailed, match=r"longer than trainer\.timeout"):
        await ChildProcess(nursery).fit(
            a_recipe(a_model(timeout="50ms")), a_training_set(tmp_path), tmp_path, untold
        )


async def test_a_fit_that_does_not_end_is_ended(tmp_path: Path, nursery: Nursery) -> None:
    endless = a_model(kind="hist_gradient_boosting", parameters={"max_iter": 10_000_000}, timeout="2s")
    told: list[Progress] = []
    with pytest.raises(RunFailed, match=r"longer than trainer\.timeout \(2 s\)"):
        await ChildProcess(nursery).fit(a_recipe(endless), a_training_set(tmp_path), tmp_path, told.append)


async def test_a_run_that_needs_more_memory_than_it_may_is_ended_with_the_limit(
    tmp_path: Path, nursery: Nursery
) -> None:
    count, wide = 12_000, tmp_path / "rows.arrow"
    nothing = np.zeros(count)
    columns: dict[str, Any] = {
        "key": [""] * count,
        "event_time_ms": np.arange(count) * MINUTE,
        "label": nothing,
    }
    table = pa.table(columns | {f"f{at}": nothing for at in range(2_000)})
    with pa.OSFile(str(wide), "wb") as file, pa.ipc.new_stream(file, table.schema) as out:
        out.write_table(table)
    rows = TrainingSet(wide, (("events/trips", 1),), "digest", count)

    with pytest.raises(RunFailed, match=r"memory_mb.* 512"):
        await ChildProcess(nursery).fit(a_recipe(a_model(memory_mb=512)), rows, tmp_path, untold)


async def test_a_child_that_dies_is_told_with_its_log(tmp_path: Path, nursery: Nursery) -> None:
    rows = a_training_set(tmp_path)
    (tmp_path / "rows.arrow").write_bytes(b"rubbish")

    with pytest.raises(RunFailed, match=r"exit 1 .*log"):
        await ChildProcess(nursery).fit(a_recipe(a_model()), rows, tmp_path, untold)
