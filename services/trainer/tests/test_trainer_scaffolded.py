"""What `trimtab init --from` writes for a table of texts and classes trains as it is written."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from trimtab import infer, project, scaffold
from trimtab_core.features import RequestFeature, TextFeature, resolve
from trimtab_core.specs import FeatureView, Model, Source, to_document
from trimtab_trainer import job

WORDS = {"poor": "never again awful", "fair": "as one expects", "good": "lovely and quick"}
HOUR, ROWS = 3_600_000, 400


def some_reviews() -> list[dict[str, Any]]:
    rng = np.random.default_rng(0)
    verdicts = rng.choice(list(WORDS), ROWS)
    return [
        {
            "id": f"o{number}",
            "at": f"2024-01-{number // 24 + 1:02}T{number % 24:02}:00:00Z",
            "city": ["ulm", "bonn"][number % 2],
            "comment": f"{WORDS[verdict]} n{number}",
            "price": float(number % 17),
            "verdict": str(verdict),
        }
        for number, verdict in enumerate(verdicts)
    ]


def test_a_project_of_classes_and_texts_trains_as_it_is_written(tmp_path: Path) -> None:
    rows = some_reviews()
    plan = scaffold.plan(infer.columns(rows), scaffold.Wishes("reviews", label="verdict"))
    written = project.parse("---\n".join(scaffold.files(plan, file="f", sampled=ROWS).values())).resources
    [source] = [each for each in written if isinstance(each, Source)]
    [view] = [each for each in written if isinstance(each, FeatureView)]
    [model] = [each for each in written if isinstance(each, Model)]
    columns: dict[str, Any] = {"key": [row["id"] for row in rows], "event_time_ms": np.arange(ROWS) * HOUR}
    for feature in resolve(model.spec.features, source.spec, {view.name: view.spec}):
        match feature:
            case TextFeature():
                columns[feature.name] = [feature.read(row[feature.field]) for row in rows]
            case RequestFeature():
                columns[feature.name] = [float(row[feature.field]) for row in rows]
            case _:  # of clocks and of the view, which are told nowhere here
                columns[feature.name] = np.arange(ROWS) % 7.0
    columns["label"] = [float(model.spec.label.classes.index(row["verdict"])) for row in rows]
    table = pa.table(columns)
    document = to_document(model)
    document["spec"]["trainer"]["parameters"] = {"max_iter": 5}  # the test need not wait for all hundred
    (tmp_path / "job.json").write_text(json.dumps({"model": document}))
    with (
        pa.OSFile(str(tmp_path / "rows.arrow"), "wb") as file,
        pa.ipc.new_stream(file, table.schema) as writer,
    ):
        writer.write_table(table)

    code = job.main(tmp_path, lambda _: None)

    result = json.loads((tmp_path / "result.json").read_text())
    assert code == 0, result
    assert (result["classes"], result["texts"]) == (
        ["fair", "good", "poor"],
        ["request.city", "text(request.comment)"],
    )
    assert result["metrics"]["error_rate"] < 0.1
