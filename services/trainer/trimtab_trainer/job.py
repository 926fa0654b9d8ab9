"""What a run does, in a process of its own.

It reads `job.json`, `rows.arrow` and, where there is a champion, `champion.onnx` from
its folder, and writes the candidate's files and `result.json` there. It talks to
nobody but its parent, whom it tells how far it is. A run that cannot succeed returns 3
and its sentence in `result.json`.
"""

import json
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from trimtab_core import losses
from trimtab_core.specs import Model, ModelSpec

from trimtab_trainer import choosing, environment, export, fitting, reference
from trimtab_trainer.errors import RunFailed
from trimtab_trainer.families import Fitted, Floats
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
    names = [name for name in table.column_names if name not in ("key", "event_time_ms", "label")]
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
    log.info("%s: %d rows of %d features, %d judged", spec.kind, len(rows), len(names), len(rows[judged]))
    made = _fit(model.spec, rows, judged, job, telling)
    predictions, final = made.predictions, made.final

    telling.reach(Stage.EVALUATING)
    shown = rows[made.reference]
    reference.write(folder / "reference.arrow", model.spec, names, shown, made.unseen)
    champion = _champion(folder, job.get("champion"), names, rows[judged])
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
        "metrics": metrics,
        "rows": len(made.fitted_to),
        "trained_from_ms": int(made.fitted_to.event_time_ms[0]),
        "trained_to_ms": int(made.fitted_to.event_time_ms[-1]),
        "parameters": {"kind": spec.kind, **spec.parameters, "half_life_ms": spec.half_life},
        "environment": environment.recorded(),
        "plan": made.plan,
    }


@dataclass(frozen=True, slots=True)
class _Made:
    """What the fits came to."""

    final: Fitted
    fitted_to: fitting.Rows
    predictions: Floats
    """Of the judged rows."""
    reference: slice
    unseen: Floats
    """Of the rows of the reference."""
    plan: dict[str, Any]


def _fit(spec: ModelSpec, rows: fitting.Rows, judged: slice, job: Any, telling: Telling) -> _Made:
    """Fit what ships, and what judges it; the former first, for how long it takes says how much the latter may."""
    changed_ms = job.get("changed_ms")
    windows = choosing.possible(spec, rows, changed_ms)
    told, plan = len(windows) > 1, job.get("plan")
    known = fitting.known(rows, judged.start, spec).stop
    # A window of the new world alone may not be possible at each stretch; then fewer fits are made than were told.
    most = len(choosing.stretches(rows, judged, changed_ms if told else None, fitting.Effort()))
    telling.fits = len(windows) * most + fitting.FOLDS + (2 if told else 1)
    fit = telling.counted(fitting.fit)

    final, took_s = fitting.timed(fit, spec, rows)
    effort = (
        fitting.Effort(plan["every"], plan["stretches"])
        if plan
        else fitting.effort(spec, took_s, known, choices=len(windows))
    )

    def losses_of(label: Floats, said: Floats) -> Floats:
        return losses.clip(losses.loss(spec.judged_by, label, said), spec.cap)

    chosen = choosing.judge(spec, rows, judged, windows, changed_ms, losses_of, effort, fit)
    log.info("%s", chosen.sentence or "judged")
    fitted_to = rows
    if chosen.window is not choosing.Window.HISTORY:
        within = choosing.within(chosen.window, spec, rows, changed_ms)
        assert within is not None
        fitted_to, final = within, fit(spec, within)
    since = changed_ms if told else None
    place = reference.place(spec, rows, judged, since, effort)
    unseen = reference.unseen(
        spec, rows, judged, chosen.predictions, place, chosen.window, since, effort, fit
    )
    return _Made(
        final,
        fitted_to,
        chosen.predictions,
        place,
        unseen,
        {
            "window": chosen.window,
            "changed_ms": changed_ms,
            "sentence": chosen.sentence,
            "every": effort.every,
            "stretches": effort.stretches,
        },
    )


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
    path = folder / "champion.onnx"
    if live is None or not path.exists() or not set(live["features"]) <= set(names):
        return None
    unseen = judged.event_time_ms > live["trained_to_ms"]
    asked = unseen if np.count_nonzero(unseen) >= _LEAST_UNSEEN else np.full(len(judged), True)
    said = np.full(len(judged), np.nan)
    columns = [names.index(name) for name in live["features"]]
    said[asked] = export.run(path.read_bytes(), judged.features[asked][:, columns])
    return said


def _metrics(task: losses.Task, label: Any, predictions: Any, champion: Any) -> dict[str, float]:
    found: dict[str, float] = {}
    for prefix, said in (("", predictions), ("champion_", champion)):
        if said is not None:
            asked = np.isfinite(said)
            for name in losses.METRICS[task]:
                found[prefix + name] = losses.aggregate(name, losses.loss(name, label[asked], said[asked]))
    return found


def _write_evaluation(
    path: Path, judged: pa.Table, predictions: Any, champion: Any, slices: Sequence[str]
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
