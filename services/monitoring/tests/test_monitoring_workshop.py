"""Work in child processes: what comes back, and what a fault leaves behind."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from trimtab_core.baseline import calibrate, learn_losses
from trimtab_core.watched import Row
from trimtab_monitoring.usecases.entities import LabelStream, ReportOrder, StoredFile
from trimtab_monitoring.workshop import CannotBeDone, Workshop
from trimtab_runtime import artifacts
from trimtab_runtime.errors import Rejected

pytestmark = [pytest.mark.real, pytest.mark.timeout(240)]

FEATURES = ("request.x", "request.z")


@pytest.fixture
def stored(reference: dict[str, Any], tmp_path: Path) -> StoredFile:
    return a_file(reference, tmp_path)


def a_file(reference: dict[str, Any], tmp_path: Path) -> StoredFile:
    sink = pa.BufferOutputStream()
    table = pa.table({**reference, "key": pa.array(["k"] * len(reference["loss"]))})
    with pa.ipc.new_file(sink, table.schema) as writer:
        writer.write_table(table)
    put = artifacts.put(tmp_path / "data", sink.getvalue().to_pybytes())
    return StoredFile(put.uri, put.digest, put.size)


def window(rows: int = 120) -> list[Row]:
    rng = np.random.default_rng(5)
    return [
        Row(at, f"p{at}", 1, 1, 0, "", float(at), None, rng.normal(1, 1, 2).tobytes(), None)
        for at in range(rows)
    ]


def score(path: Path, name: str) -> Any:
    """Return what a report says of a metric of Evidently's, None where it does not."""
    metrics = json.loads(path.with_suffix(".json").read_text())["metrics"]
    return next((each["value"] for each in metrics if each["metric_name"].startswith(f"{name}(")), None)


async def test_a_calibration_in_a_child_is_the_one_made_here(
    reference: dict[str, Any], world: Any, tmp_path: Path
) -> None:
    settings = replace(
        world.calibrations.settings(world.specs.model("m")),
        measures=(("categorical", "psi"), ("request.x", "ks"), ("text", "ks")),
        season_ms=60_000,
    )
    rows = len(reference["loss"])
    reference |= {
        name: np.array(["a", "b and c", ""] * rows, object)[:rows] for name in ("kind", "text(note)")
    }

    found = await Workshop(tmp_path / "state").calibrate(a_file(reference, tmp_path), settings)

    assert found == replace(calibrate(reference, settings), estimator=learn_losses(reference, settings))
    assert found.estimator is not None and found.estimator.trees is not None
    kinds = {name: each.kind for name, each in found.references.items()}
    assert (kinds["kind"], kinds["text(note)"]) == ("categorical", "text")
    assert found.data is not None
    assert found.data.season is not None
    assert found.notes == ("text(note) is text and ks a measure of numbers: distance is used for it.",)
    assert list((tmp_path / "state" / "workshop").iterdir()) == []


async def test_a_reference_that_is_none_is_refused_in_a_sentence(world: Any, tmp_path: Path) -> None:
    settings = world.calibrations.settings(world.specs.model("m"))
    put = artifacts.put(tmp_path, b"rubbish")
    workshop = Workshop(tmp_path / "state")

    with pytest.raises(CannotBeDone, match="exit 1"):
        await workshop.calibrate(StoredFile(put.uri, put.digest, put.size), settings)
    with pytest.raises(Rejected):
        await workshop.calibrate(StoredFile(put.uri, "another", put.size), settings)
    with pytest.raises(Rejected):
        await workshop.calibrate(StoredFile(str(tmp_path / "nowhere"), put.digest, put.size), settings)


async def test_a_report_is_html_and_json_where_it_was_promised(
    reference: dict[str, Any], tmp_path: Path
) -> None:
    stored = a_file(reference | {"label": reference["prediction"]}, tmp_path)
    path = tmp_path / "reports" / "m" / "e.html"
    order = ReportOrder("e", "m", 1, LabelStream("s", "id", "y", 1), 0, 120, str(path), "regression")
    gone = np.array([1.0, np.nan]).tobytes()
    rows = [
        row._replace(features=gone, label=row.champion + 2 if row.at_ms < 60 else None) for row in window()
    ]

    await Workshop(tmp_path / "state").report(order, rows, FEATURES, stored)

    assert "request.x" in path.read_text()
    shown = json.dumps(json.loads(path.with_suffix(".json").read_text()))
    assert "request.x" in shown
    assert score(path, "MAE") == {"mean": 2.0, "std": 0.0}  # of those that have a label
    assert "request.z" not in shown  # it has no value on one side, which Evidently cannot show
    assert sorted(it.name for it in path.parent.iterdir()) == ["e.html", "e.json"]
    workshop = Workshop(tmp_path / "state")
    assert await workshop.drawn(str(path)) == (path.read_bytes(), path.with_suffix(".json").read_bytes())
    assert await workshop.drawn(str(path.with_name("f.html"))) is None


async def test_a_report_of_classes_and_categories_shows_them_by_name_and_leaves_words_out(
    reference: dict[str, Any], tmp_path: Path
) -> None:
    path, stream = tmp_path / "e.html", LabelStream("s", "id", "y", 1, ("low", "middle", "high"))
    said = np.arange(len(reference["prediction"])) % 3.0
    texts = {"request.kind": ["taxi", "van"] * (len(said) // 2), "text(request.note)": ["so so"] * len(said)}
    stored = a_file(reference | {"prediction": said, "label": said} | texts, tmp_path)
    order = ReportOrder("e", "m", 1, stream, 0, 120, str(path), "multiclass")
    rows = [row._replace(champion=2.0, label=row.at_ms % 3.0, texts=b'["van", "so so"]') for row in window()]

    await Workshop(tmp_path / "state").report(order, rows, (*FEATURES, *texts), stored)

    shown = json.dumps(json.loads(path.with_suffix(".json").read_text()))
    assert '"high"' in shown and '"middle"' in shown
    assert '"taxi"' in shown and '"van"' in shown
    assert "so so" not in shown
    assert score(path, "Accuracy") == pytest.approx(1 / 3)
    assert score(path, "RecallByLabel") == {"low": 0, "middle": 0, "high": 1}


async def test_what_evidently_cannot_score_is_shown_without_scores(
    reference: dict[str, Any], tmp_path: Path
) -> None:
    said = np.arange(len(reference["prediction"])) % 3.0
    stored = a_file(reference | {"prediction": said, "label": said}, tmp_path)
    stream = LabelStream("s", "id", "y", 1, ("low", "middle", "high"))
    rows = [row._replace(champion=row.at_ms % 2.0, label=row.at_ms // 2 % 2.0) for row in window()]

    html, content = await Workshop(tmp_path / "state").draw("multiclass", stream, rows, FEATURES, stored)

    assert b"middle" in html  # of three classes two came, which it takes for a task of two
    assert "Accuracy" not in content.decode()


@pytest.mark.parametrize(
    ("labels", "positives", "accuracy"),
    [
        (LabelStream("s", "id", "y", 1), 30, 0.25),
        (LabelStream("s", "id", "y", 1, wanted=True), 30, None),
        (LabelStream("s", "id", "y", 1, ("no", "yes")), 0, None),
    ],
    ids=["of all", "of wanted rows alone", "all alike"],
)
async def test_a_report_scores_predictions_where_their_labels_say_something_of_all(
    reference: dict[str, Any], tmp_path: Path, labels: LabelStream, positives: int, accuracy: float | None
) -> None:
    yes = np.arange(len(reference["prediction"])) % 2.0
    stored = a_file(reference | {"prediction": (yes + 0.5) / 2, "label": yes}, tmp_path)
    rows = [row._replace(champion=0.9, label=float(row.at_ms < positives)) for row in window()]
    path = tmp_path / "e.html"

    html, said = await Workshop(tmp_path / "state").draw("binary", labels, rows, FEATURES, stored)

    path.with_suffix(".json").write_bytes(said)
    assert score(path, "Accuracy") == accuracy
    assert b"request.x" in html


async def test_a_report_of_columns_that_nobody_shares_cannot_be_made(
    stored: StoredFile, tmp_path: Path
) -> None:
    order = ReportOrder("e", "m", 1, LabelStream("s", "id", "y", 1), 0, 120, str(tmp_path / "e.html"))
    rows = [row._replace(champion=float("nan")) for row in window()]

    with pytest.raises(CannotBeDone, match="nothing to show"):
        await Workshop(tmp_path / "state").report(order, rows, ("a", "b"), stored)
