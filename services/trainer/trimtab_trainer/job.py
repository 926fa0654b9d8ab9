"""What a run does, in a process of its own.

It reads `job.json`, `rows.arrow` and, where there is a champion, `champion.onnx` from
its folder, and writes the candidate's files and `result.json` there. It talks to
nobody but its parent, whom it tells how far it is. A run that cannot succeed returns 3
and its sentence in `result.json`.
"""

import hashlib
import importlib.metadata
import json
import logging
import platform
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from trimtab_core import losses
from trimtab_core.specs import Model, ModelSpec

from trimtab_trainer import classes, export, fitting, inputs
from trimtab_trainer.errors import RunFailed
from trimtab_trainer.families import Floats
from trimtab_trainer.progress import Tell, Telling
from trimtab_trainer.usecases.entities import Stage

log = logging.getLogger(__name__)

FAILED = 3
_REFERENCE_ROWS = 50_000
_LEAST_UNSEEN = 100
"""So many judged rows that the live version was not fitted to are enough to compare on."""
_PACKAGES = ("numpy", "scikit-learn", "skl2onnx", "onnx", "onnxruntime", "trimtab-core", "trimtab-trainer")


def main(folder: Path, tell: Tell) -> int:
    """Do the job in `folder`, and return the exit code."""
    try:
        result = _run(folder, Telling(tell, fits=fitting.FITS))
    except RunFailed as error:
        log.info("failed: %s", error)
        (folder / "result.json").write_text(json.dumps({"error": str(error)}))
        return FAILED
    (folder / "result.json").write_text(json.dumps(result))
    return 0


def _run(folder: Path, telling: Telling) -> dict[str, Any]:
    job = json.loads((folder / "job.json").read_text())
    model = Model.model_validate(job["model"])
    task, spec = model.spec.task, model.spec.trainer
    with pa.ipc.open_stream(folder / "rows.arrow") as reader:
        table = reader.read_all()
    names, texts = inputs.names(table)
    if other := _of_other_classes(job.get("rows_of_other_classes", 0), model):
        log.info("%s", other)
    if table.num_rows < spec.min_rows:
        raise RunFailed(
            f"there are {table.num_rows} labelled rows and trainer.min_rows is {spec.min_rows}: wait, or lower it"
            + (f" ({other})" if other else "")
        )
    if spec.max_rows is not None:
        table = table.slice(max(0, table.num_rows - spec.max_rows))
    rows = _rows(table, names, texts)

    judged = fitting.held_out(rows, model.spec)
    known = fitting.known(rows, judged.start, model.spec).stop
    if known < spec.min_rows // 2:
        raise RunFailed(
            f"only {known} rows are older than the held-out ones: widen trainer.window or shrink the holdout"
        )
    width = len(names) + len(texts)
    log.info("%s: %d rows of %d features, %d judged", spec.kind, len(rows), width, len(rows[judged]))
    fit = telling.counted(fitting.fit)
    predictions = fitting.judged_predictions(model.spec, rows, judged, fit)
    unseen = fitting.unseen_predictions(model.spec, rows, judged, predictions, fit)
    final = fit(model.spec, rows)

    telling.reach(Stage.EVALUATING)
    _write_reference(folder / "reference.arrow", model, table, names + texts, rows, unseen)
    champion = _champion(folder, job.get("champion"), model.spec, table.slice(judged.start))
    slices = [gate.slices for gate in model.spec.gates if gate.slices is not None]
    _write_evaluation(folder / "evaluation.arrow", table.slice(judged.start), predictions, champion, slices)
    metrics = _metrics(task, rows.label[judged], predictions, champion)
    log.info("%s", ", ".join(f"{name} {value:.6g}" for name, value in metrics.items()))

    telling.reach(Stage.EXPORTING)
    graph = export.serialised(final.to_onnx())
    export.check(graph, rows.features[judged], final.predict(rows.features[judged]))
    (folder / "model.onnx").write_bytes(graph)
    return {
        "features": names,
        "texts": texts,
        "classes": list(model.spec.label.classes),
        "metrics": metrics,
        "rows": len(rows),
        "trained_from_ms": int(rows.event_time_ms[0]),
        "trained_to_ms": int(rows.event_time_ms[-1]),
        "parameters": {"kind": spec.kind, **spec.parameters, "half_life_ms": spec.half_life},
        "environment": _environment(),
    }


def _of_other_classes(count: int, model: Model) -> str:
    named = ", ".join(model.spec.label.classes)
    return (
        f"{count} rows have a label that is none of {named}, and are left out: add it to label.classes"
        if count
        else ""
    )


def _rows(table: pa.Table, names: Sequence[str], texts: Sequence[str]) -> fitting.Rows:
    return fitting.Rows(
        inputs.of(table, names, texts),
        table["label"].to_numpy().astype(np.float64),
        table["event_time_ms"].to_numpy(),
    )


def _champion(folder: Path, live: Any, spec: ModelSpec, judged: pa.Table) -> Floats | None:
    """Return what the live version says of the judged rows, NaN where it is not asked.

    It is asked of those that it was not fitted to, for it knows the others' answers. Where too few are newer than its
    own training it is asked of all, and has the advantage: a candidate that is better even so is better.
    None where there is no live version, or it needs features that are not here, or is of another task.
    """
    path = folder / "champion.onnx"
    if live is None or not path.exists():
        return None
    names, texts = inputs.names(judged)
    takes = live["features"], live.get("texts", [])
    if not (set(takes[0]) <= set(names) and set(takes[1]) <= set(texts)):
        return None
    unseen = judged["event_time_ms"].to_numpy() > live["trained_to_ms"]
    asked = unseen if np.count_nonzero(unseen) >= _LEAST_UNSEEN else np.full(len(judged), True)
    answered = export.run(path.read_bytes(), inputs.of(judged.filter(pa.array(asked)), *takes))
    if (answered.ndim == 2) != (spec.task == "multiclass"):
        return None
    said = np.full((len(judged), *answered.shape[1:]), np.nan)
    said[asked] = answered
    return said


def _metrics(task: losses.Task, label: Any, predictions: Any, champion: Any) -> dict[str, float]:
    found: dict[str, float] = {}
    for prefix, said in (("", predictions), ("champion_", champion)):
        if said is not None:
            asked = np.isfinite(said if said.ndim == 1 else said[:, 0])
            for name in losses.METRICS[task]:
                found[prefix + name] = losses.aggregate(name, losses.loss(name, label[asked], said[asked]))
    return found


def _write_reference(
    path: Path, model: Model, table: pa.Table, names: Sequence[str], rows: fitting.Rows, unseen: Any
) -> None:
    newest = slice(max(0, len(rows) - _REFERENCE_ROWS), len(rows))
    columns: dict[str, Any] = {name: inputs.as_seen(table[name])[newest] for name in names}
    columns["prediction"] = classes.answers(unseen[newest])
    columns["loss"] = losses.loss(model.spec.judged_by, rows.label[newest], unseen[newest])
    columns["event_time_ms"] = rows.event_time_ms[newest]
    _write(path, pa.table(columns))


def _write_evaluation(
    path: Path, judged: pa.Table, predictions: Any, champion: Any, slices: Sequence[str]
) -> None:
    columns = {
        "key": judged["key"],
        "event_time_ms": judged["event_time_ms"],
        "label": judged["label"],
        **classes.evaluated(predictions, champion),
    }
    for name in slices:
        column = name if name in judged.column_names else f"request.{name}"
        if column not in judged.column_names:
            raise RunFailed(
                f"a gate slices by {name!r}, which is no feature of the model: add request.{name}"
            )
        columns[name] = judged[column]
    _write(path, pa.table(columns))


def _write(path: Path, table: pa.Table) -> None:
    with pa.OSFile(str(path), "wb") as file, pa.ipc.new_file(file, table.schema) as writer:
        writer.write_table(table)


def _environment() -> dict[str, str]:
    versions = {name: importlib.metadata.version(name) for name in _PACKAGES}
    sources = b"".join(path.read_bytes() for path in sorted(Path(__file__).parent.rglob("*.py")))
    return {"python": platform.python_version(), "source": hashlib.sha256(sources).hexdigest()} | versions
