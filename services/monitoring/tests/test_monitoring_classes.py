"""A model of classes is watched by the chances that it gave, and by which classes it says."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from trimtab_contracts.serving.v1.serving_pb2 import PredictionBatch
from trimtab_core import detection, estimation, windows
from trimtab_core.baseline import Settings, calibrate, learn_losses
from trimtab_core.calibration import Rule
from trimtab_core.durations import Rate
from trimtab_core.watched import Reading, Row
from trimtab_monitoring import messages
from trimtab_monitoring.errors import BadBatch
from trimtab_monitoring.reference import read_reference
from trimtab_monitoring.usecases.arriving import Gathering, LabelReader
from trimtab_monitoring.usecases.entities import Arrivals, Labelled, LabelStream

Make = Callable[..., Any]
CLASSES = ("low", "middle", "high")
LABEL = {"source": "truths", "on": "id", "value": "y", "within": "1h", "classes": CLASSES}
STREAM = "truths/id/y/class"


def batch(**changes: Any) -> PredictionBatch:
    known = {
        "model": "m", "id": "b", "champion_version": 1, "ids": ["a", "b"], "keys": ["a", "b"],
        "event_time_ms": [1, 2], "champion": [2, 0], "classes": CLASSES,
        "champion_probabilities": [0.1, 0.2, 0.7, 1, 0, 0],
    }  # fmt: skip
    return PredictionBatch(**known | changes)


def packed(*chances: float) -> bytes:
    return np.array(chances, np.float64).tobytes()


def a_row(label: float | None, champion: bytes | None, challenger: bytes | None = None) -> Row:
    return Row(0, "a", 1, 1, 2, "", 0.0, 0.0, b"", label, champion, challenger)


def test_what_rows_lose_is_learnt_from_the_chances_of_each_class_that_a_reference_holds(
    tmp_path: Path,
) -> None:
    rng = np.random.default_rng(4)
    chances = rng.dirichlet((1, 1, 1), 900)
    label = (rng.random((900, 1)) > chances.cumsum(axis=1)).sum(axis=1)
    table = pa.table(
        {
            "request.x": rng.normal(size=900), "prediction": chances.argmax(axis=1), "loss": -np.log(chances[np.arange(900), label]),
            "label": label, "probabilities": pa.FixedSizeListArray.from_arrays(pa.array(chances.ravel()), 3),
        }
    )  # fmt: skip
    with pa.OSFile(str(tmp_path / "it"), "wb") as file, pa.ipc.new_file(file, table.schema) as writer:
        writer.write_table(table)
    columns = read_reference(tmp_path / "it")
    settings = Settings(100, Rate(1, 1), Rule(), "log_loss", 4.0, ("prediction",))

    estimator = learn_losses(columns, settings)

    assert columns["probabilities"] == pytest.approx(chances)
    assert (estimator.unknown, len(estimator.chances), set(estimator.known)) == ("", 3, {"request.x"})
    rows = [a_row(None, packed(*each))._replace(features=b"\0" * 8) for each in chances[:200]]
    found = estimation.estimate(estimator, windows.said(rows, ["request.x"]))
    assert isinstance(found, estimation.Estimate)
    assert found.value == pytest.approx(columns["loss"].mean(), rel=0.2)


def test_the_chances_of_a_batch_are_kept_row_by_row() -> None:
    found = messages.predicted(batch())

    assert found.champion_probabilities == [packed(0.1, 0.2, 0.7), packed(1, 0, 0)]
    assert found.challenger_probabilities is None
    assert messages.predicted(batch(classes=[], champion_probabilities=[])).champion_probabilities is None
    for uneven in ({"champion_probabilities": [0.5]}, {"challenger_version": 2, "challenger": [0, 0]}):
        with pytest.raises(BadBatch, match="2 rows of 3 classes have 6"):
            messages.predicted(batch(**uneven))


def test_a_label_is_read_as_the_text_of_its_class() -> None:
    stream = LabelStream("truths", "id", "y", 1, CLASSES)
    reader, gathered = LabelReader(stream), Gathering()

    read = [
        reader.read(row)
        for row in (b'{"id": "a", "y": "low"}', b'{"id": 1, "y": 3}', b'{"id": "b", "y": null}')
    ]
    for each in read:
        if each is not None:
            gathered.label(stream.name, each[0], 5, each[1])

    assert read == [("a", "low"), ("1", "3"), None]
    (labelled,) = gathered.arrivals().labelled
    assert (labelled.stream, labelled.keys, labelled.classes) == (STREAM, ["a", "1"], ["low", "3"])


def test_the_loss_of_a_row_is_that_of_the_chance_which_its_class_was_given(make_model: Make) -> None:
    spec = make_model(task="multiclass", label=LABEL, rollout={"cap": 4}).spec
    nothing = packed(np.nan, np.nan, np.nan)
    rows = [
        a_row(2, packed(0.1, 0.2, 0.7), nothing),
        a_row(2, packed(0.4, 0.6), packed(0, 0, 1)),
        a_row(None, packed(0.1, 0.2, 0.7)),
        a_row(1, None, packed(0.5, 0.5)),
    ]

    champion = windows.champion_losses(spec, rows)
    challenger = windows.challenger_losses("multiclass", "log_loss", 4, rows)

    # An older version that did not know the class gave it no chance.
    assert champion == pytest.approx([-np.log(0.7), 4, np.nan, np.nan], nan_ok=True)
    assert challenger == pytest.approx([np.nan, 0, np.nan, -np.log(0.5)], nan_ok=True, abs=1e-6)


def test_chances_that_rounding_put_beyond_1_count_and_what_is_no_chance_does_not(make_model: Make) -> None:
    over = float(np.nextafter(np.float32(1), np.float32(2)))
    rows = [a_row(2, packed(0, 0, over)), a_row(2, packed(0, 0, 1.5)), a_row(1, packed(0, -3, 4))]

    of_classes = windows.champion_losses(
        make_model(task="multiclass", label=LABEL, rollout={"cap": 4}).spec, rows
    )
    of_two = windows.clipped_losses("log_loss", 4, [1.0, 1.0], [over, 1.5])

    assert of_classes == pytest.approx([0, np.nan, np.nan], nan_ok=True, abs=1e-6)
    assert of_two == pytest.approx([0, np.nan], nan_ok=True, abs=1e-6)


def test_the_prediction_drifts_where_the_shares_of_the_classes_move(make_model: Make, reference: Any) -> None:
    settings = Settings.of(make_model(task="multiclass", label=LABEL, rollout={}), None)
    said = np.random.default_rng(0).choice([0.0, 2.0], len(reference["loss"]))

    made = calibrate(reference | {"prediction": said}, settings)

    found = made.references["prediction"]
    assert (found.kind, set(found.categories)) == ("categorical", {"0", "2"})


async def test_worse_chances_are_drift_of_performance_and_more_of_a_class_is_one_of_the_prediction(
    world: Any, flow: Make, make_model: Make, reference: Any
) -> None:
    world.specs.models["m"] = make_model(task="multiclass", label=LABEL, rollout={"cap": 4})
    rng = np.random.default_rng(1)
    world.desk = type(world.desk)()
    world.restart()
    world.desk.files["/1"] = reference | {
        "prediction": rng.choice([0.0, 1.0, 2.0], len(reference["loss"])),
        "loss": np.where(rng.random(len(reference["loss"])) < 0.8, -np.log(0.8), -np.log(0.1)),
    }
    await world.ready()

    async def live(start: int, right: float, shares: Sequence[float]) -> None:
        part = flow(start, 400)
        said = rng.choice(3, 400, p=shares)
        truth = np.where(rng.random(400) < right, said, (said + 1) % 3)
        chances = np.full((400, 3), 0.1)
        chances[np.arange(400), said] = 0.8
        predicted = replace(
            part.predicted(),
            champion=said.astype(float).tolist(),
            champion_probabilities=[row.tobytes() for row in chances],
        )
        keys, times = predicted.keys, [at + 1 for at in part.times]
        labels = Labelled(STREAM, keys, times, [np.nan] * 400, [CLASSES[at] for at in truth])
        await world.store.take(Arrivals([predicted], [labels]))
        await world.mark(part.times[-1])
        await world.close()

    await live(0, 0.8, [1 / 3, 1 / 3, 1 / 3])
    assert world.drifts() == []

    await live(400, 0.2, [0.1, 0.1, 0.8])

    assert {drift.kind for drift in world.drifts()} == {"performance", "prediction"}
    names = {reading.name: reading.value for reading in world.told(Reading)}
    assert names["log_loss"] == pytest.approx(0.2 * -np.log(0.8) + 0.8 * -np.log(0.1), rel=0.2)


def test_a_version_without_a_number_among_its_features_is_watched_by_what_it_says(
    make_model: Make, reference: Any
) -> None:
    settings = Settings.of(make_model(features=["text(request.note)"]), None)
    columns = {name: reference[name] for name in ("prediction", "loss", "event_time_ms")}

    made = calibrate(columns, settings)
    rows = [a_row(None, None)._replace(id=str(at), champion=5.0) for at in range(100)]
    judged = detection.judge("m", windows.DataWindow(1, rows), (), made, settings, {})

    assert [finding.kind for finding in judged.findings] == ["prediction"]
    assert judged.findings[0].verdict.over
