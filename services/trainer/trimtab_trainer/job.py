"""What a run does, in a process of its own.

It reads `job.json`, `rows.arrow` and, where there are such, `champion.onnx` and
`tests.json` from its folder, and writes the candidate's files and `result.json` there. A job
that has a `registered.onnx` judges that in the place of a fit. It talks to
nobody but its parent, whom it tells how far it is. A run that cannot succeed returns 3
and its sentence in `result.json`.
"""

import json
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from trimtab_core import losses
from trimtab_core.gatespecs import group_column
from trimtab_core.specs import Model

from trimtab_trainer import (
    behaving,
    environment,
    evidence,
    export,
    families,
    fitting,
    making,
    reference,
    registered,
    search,
    timing,
)
from trimtab_trainer.errors import RunFailed
from trimtab_trainer.families import Floats, own
from trimtab_trainer.progress import Tell, Telling
from trimtab_trainer.usecases.entities import Stage

log = logging.getLogger(__name__)

FAILED = 3
_LEAST_UNSEEN = 100
"""So many judged rows that the live version was not fitted to are enough to compare on."""


def main(folder: Path, tell: Tell) -> int:
    """Do the job in `folder`, and return the exit code."""
    try:
        result = _run(folder, Telling(tell))
    except RunFailed as error:
        return failed(folder, error)
    except MemoryError:
        most = of(folder).spec.trainer.memory_mb
        return failed(
            folder,
            RunFailed(f"it needs more memory than trainer.memory_mb, {most}: raise it, or train on less"),
        )
    finally:
        own.close_line()
    (folder / "result.json").write_text(json.dumps(result))
    return 0


def failed(folder: Path, error: RunFailed) -> int:
    """Leave the sentence in `folder`, and return the exit code."""
    log.info("failed: %s", error)
    (folder / "result.json").write_text(json.dumps({"error": str(error)}))
    return FAILED


def of(folder: Path) -> Model:
    """Return the model that the job in `folder` is for."""
    return Model.model_validate(json.loads((folder / "job.json").read_text())["model"])


def given(folder: Path) -> tuple[dict[str, Any], Model, pa.Table, list[str], fitting.Rows, slice]:
    """Return what is in `folder`: the job, its model, the rows as a table, their features, themselves, and which are held out.

    Raises:
        RunFailed: the rows are too few.
    """
    job = json.loads((folder / "job.json").read_text())
    model = Model.model_validate(job["model"])
    spec = model.spec.trainer
    with pa.ipc.open_stream(folder / "rows.arrow") as reader:
        table = reader.read_all()
    beside = {"key", "event_time_ms", "label", *map(group_column, model.spec.groups)}
    names = [name for name in table.column_names if name not in beside]
    if table.num_rows < spec.min_rows:
        raise RunFailed(
            f"there are {table.num_rows} labelled rows and trainer.min_rows is {spec.min_rows}: wait, or lower it"
        )
    if spec.max_rows is not None:
        table = table.slice(max(0, table.num_rows - spec.max_rows))
    rows = _rows(table, names)

    judged = fitting.held_out(rows, model.spec)
    known = fitting.known(rows, judged.start, model.spec).stop
    if known < spec.min_rows // 2:
        raise RunFailed(
            f"only {known} rows are older than the held-out ones: widen trainer.window or shrink the holdout"
        )
    return job, model, table, names, rows, judged


def _run(folder: Path, telling: Telling) -> dict[str, Any]:
    job, model, table, names, rows, judged = given(folder)
    brought = registered.brought(folder, names, model.spec.task)
    model = model if brought else search.settled(model, rows, judged, folder, telling)
    task, spec = model.spec.task, model.spec.trainer
    judged = brought.unseen(rows, judged) if brought else judged
    theirs = {} if brought else own.open_line(folder, model.spec, names)
    kind = "registered" if brought else spec.kind
    log.info("%s: %d rows of %d features, %d judged", kind, len(rows), len(names), len(rows[judged]))
    made = making.of(brought, rows, judged) if brought else making.fit(model.spec, rows, judged, job, telling)
    predictions, final = made.predictions, made.final

    telling.reach(Stage.EVALUATING)
    reference.write(folder / "reference.arrow", model.spec, names, made.reference, made.unseen)
    champion = _champion(folder, job.get("champion"), names, rows[judged])
    _write_evaluation(
        folder / "evaluation.arrow", table.slice(judged.start), predictions, champion, model.spec.groups
    )
    metrics = _metrics(task, rows.label[judged], predictions, champion)
    log.info("%s", ", ".join(f"{name} {value:.6g}" for name, value in metrics.items()))

    telling.reach(Stage.EXPORTING)
    graph = export.serialised(final.to_onnx())
    export.check(graph, rows.features[judged], final.predict(rows.features[judged]))
    (folder / "model.onnx").write_bytes(graph)
    telling.reach(Stage.EXPLAINING)
    found = evidence.found(model.spec, table, names, rows, judged, predictions, champion, graph)
    (folder / "evidence.json").write_text(json.dumps(found.document, separators=(",", ":")))
    live = _live(folder, job.get("champion"), names)
    return {
        "features": names,
        "metrics": found.values | metrics,
        "intervals": found.intervals,
        "rows": len(made.fitted_to),
        "trained_from_ms": int(made.fitted_to.event_time_ms[0]),
        "trained_to_ms": int(made.fitted_to.event_time_ms[-1]),
        "parameters": {
            "kind": spec.kind,
            **spec.parameters,
            "half_life_ms": spec.half_life,
            "class_weight": spec.class_weight,
            **search.facts(folder),
        },
        "environment": environment.recorded() | families.versions(spec.kind) | theirs,
        "plan": made.plan,
        "latency": timing.latency(graph, live, rows.features[judged]),
        "tests": behaving.results(folder, graph, names, rows.features[judged]),
    } | (brought.record(rows) if brought else {})


def _rows(table: pa.Table, names: Sequence[str]) -> fitting.Rows:
    features = np.column_stack([table[name].to_numpy().astype(np.float32) for name in names])
    return fitting.Rows(
        features, table["label"].to_numpy().astype(np.float64), table["event_time_ms"].to_numpy()
    )


def _champion(folder: Path, live: Any, names: list[str], judged: fitting.Rows) -> Floats | None:
    """Return what the live version says of the judged rows, NaN where it is not asked.

    It is asked of those that it was not fitted to, for it knows the others' answers. Where too few are newer than its
    own training it is asked of all, and has the advantage: a candidate that is better even so is better.
    None where there is no live version, or it needs features that are not here.
    """
    asked_for = _live(folder, live, names)
    if asked_for is None:
        return None
    graph, columns = asked_for
    unseen = judged.event_time_ms > live["trained_to_ms"]
    asked = unseen if np.count_nonzero(unseen) >= _LEAST_UNSEEN else np.full(len(judged), True)
    said = np.full(len(judged), np.nan)
    said[asked] = export.run(graph, judged.features[asked][:, columns])
    return said


def _live(folder: Path, live: Any, names: list[str]) -> tuple[bytes, list[int]] | None:
    """Return the live version's graph and the columns that it takes; None if there is none, or it needs others."""
    path = folder / "champion.onnx"
    if live is None or not path.exists() or not set(live["features"]) <= set(names):
        return None
    return path.read_bytes(), [names.index(name) for name in live["features"]]


def _metrics(task: losses.Task, label: Any, predictions: Any, champion: Any) -> dict[str, float]:
    found: dict[str, float] = {}
    for prefix, said in (("", predictions), ("champion_", champion)):
        if said is not None:
            asked = np.isfinite(said)
            for name in losses.METRICS[task]:
                found[prefix + name] = losses.aggregate(name, losses.loss(name, label[asked], said[asked]))
    return found


def _write_evaluation(
    path: Path, judged: pa.Table, predictions: Any, champion: Any, groups: Sequence[str]
) -> None:
    columns = {
        "key": judged["key"],
        "event_time_ms": judged["event_time_ms"],
        "label": judged["label"],
        "prediction": pa.array(predictions),
        "champion_prediction": pa.nulls(len(predictions), pa.float64())
        if champion is None
        else pa.array(champion, mask=np.isnan(champion)),
    }
    for name in groups:
        columns[name] = judged[group_column(name)]
    _write(path, pa.table(columns))


def _write(path: Path, table: pa.Table) -> None:
    with pa.OSFile(str(path), "wb") as file, pa.ipc.new_file(file, table.schema) as writer:
        writer.write_table(table)
