"""What a run does, in a process of its own.

It reads `job.json`, `rows.arrow` and, where there are such, `champion.onnx` and
`tests.json` from its folder, and writes the candidate's files and `result.json` there. A job
that has a `registered.onnx` judges that in the place of a fit. It talks to
nobody but its parent, whom it tells how far it is. A run that cannot succeed returns 3
and its sentence in `result.json`.
"""

import json
import logging
import resource
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from trimtab_core import losses
from trimtab_core.specs import Model, ModelTest, group_column, read_back
from trimtab_training import behaving, classes, export, fitting, inputs, making, reference, search, timing
from trimtab_training.errors import RunFailed
from trimtab_training.families import Floats, own
from trimtab_training.progress import Stage, Tell, Telling

from trimtab_trainer import environment, evidence, registered
from trimtab_trainer.usecases.entities import TESTS

log = logging.getLogger(__name__)

FAILED = 3


def main(folder: Path, tell: Tell) -> int:
    """Do the job in `folder`, and return the exit code."""
    begun_s = _cpu_s()
    try:
        result = _run(folder, Telling(tell))
        result["cpu_s"] = _cpu_s() - begun_s
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


def _cpu_s() -> float:
    """Return how long this process and those that it waited for have computed."""
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(each.ru_utime + each.ru_stime for each in used)


def failed(folder: Path, error: RunFailed) -> int:
    """Leave the sentence in `folder`, and return the exit code."""
    log.info("failed: %s", error)
    (folder / "result.json").write_text(json.dumps({"error": str(error)}))
    return FAILED


def of(folder: Path) -> Model:
    """Return the model that the job in `folder` is for."""
    return _model(json.loads((folder / "job.json").read_text()))


def _model(job: Mapping[str, Any]) -> Model:
    found, _ = read_back("Model", job["model"])  # a run that is made once more may be of a spec of long ago
    assert isinstance(found, Model)
    return found


@dataclass(frozen=True, slots=True)
class Given:
    """What a job is given."""

    job: dict[str, Any]
    model: Model
    table: pa.Table
    """The rows with all that is known of them."""
    names: list[str]
    """The features that are numbers."""
    texts: list[str]
    """Those that are texts."""
    rows: fitting.Rows
    judged: slice
    """Which of the rows are held out."""


def given(folder: Path) -> Given:
    """Return what is in `folder`.

    Raises:
        RunFailed: the rows are too few.
    """
    job = json.loads((folder / "job.json").read_text())
    model = _model(job)
    with pa.ipc.open_stream(folder / "rows.arrow") as reader:
        table = reader.read_all()
    names, texts = inputs.names(table, beside=[group_column(each) for each in model.spec.groups])
    if other := _of_other_classes(job.get("rows_of_other_classes", 0), model):
        log.info("%s", other)
    table = table.slice(making.first_place(model.spec, table.num_rows, other))
    rows = _rows(table, names, texts)
    judged = making.held_out(model.spec, rows)
    return Given(job, model, table, names, texts, rows, judged)


def _run(folder: Path, telling: Telling) -> dict[str, Any]:
    the = given(folder)
    model, rows, names = the.model, the.rows, the.names
    brought = registered.brought(folder, names, the.texts, model.spec)
    model = model if brought else search.settled(model, rows, the.judged, folder, telling)
    task, spec = model.spec.task, model.spec.trainer
    judged = brought.unseen(rows, the.judged) if brought else the.judged
    theirs = {} if brought else own.open_line(folder, model.spec, names, the.texts)
    kind, width = "registered" if brought else spec.kind, len(names) + len(the.texts)
    log.info("%s: %d rows of %d features, %d judged", kind, len(rows), width, len(rows[judged]))
    made = brought.made(rows, judged) if brought else making.fit(model.spec, rows, judged, the.job, telling)
    predictions, final = made.predictions, made.final

    telling.reach(Stage.EVALUATING)
    held_out = the.table.slice(judged.start)
    live = _live(folder, the)
    champion = _champion(live, held_out, task) if live else None
    beside = (live.session, live.inputs(held_out)) if live else None
    _write_evaluation(folder / "evaluation.arrow", held_out, predictions, champion, model.spec.groups)
    metrics = _metrics(task, rows.label[judged], predictions, champion)
    log.info("%s", ", ".join(f"{name} {value:.6g}" for name, value in metrics.items()))

    telling.reach(Stage.EXPORTING)
    graph = export.serialised(final.to_onnx())
    checked = export.to_check(rows.features[judged])
    asked = export.check(graph, checked, final.predict(checked))
    (folder / "model.onnx").write_bytes(graph)
    shown = made.reference
    said = export.answers(asked, shown.features[reference.examples(shown)])
    reference.write(folder / "reference.arrow", model.spec, names, the.texts, shown, made.unseen, said)
    telling.reach(Stage.EXPLAINING)
    found = evidence.found(
        model.spec,
        the.table,
        names + the.texts,
        rows,
        judged,
        predictions,
        champion,
        asked,
        made.plan.get("every", 1),
        fitted=brought is None,
    )
    (folder / "evidence.json").write_text(json.dumps(found.document, separators=(",", ":")))
    return {
        "features": names,
        "texts": the.texts,
        "classes": list(model.spec.label.classes),
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
        "environment": environment.recorded() | theirs,
        "plan": made.plan,
        "latency": timing.latency(asked, rows.features[judged], beside),
        "tests": behaving.results(
            _tests(folder),
            partial(export.answers, asked),
            names,
            the.texts,
            model.spec.label.classes,
            rows.features[judged],
        ),
    } | (brought.record(rows) if brought else {})


def _tests(folder: Path) -> list[ModelTest]:
    """Return the tests that were applied when the job began."""
    path = folder / TESTS
    return [ModelTest.model_validate(each) for each in json.loads(path.read_text())] if path.exists() else []


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


@dataclass(frozen=True, slots=True)
class _Live:
    """The live version, and what it takes."""

    session: Any
    """Its graph, ready to be asked."""
    features: list[str]
    texts: list[str]
    trained_to_ms: int

    def inputs(self, rows: pa.Table) -> inputs.Matrix | inputs.Inputs:
        """Return what it is shown of some rows."""
        return inputs.of(rows, self.features, self.texts)


def _live(folder: Path, the: Given) -> _Live | None:
    """Return the live version; None if there is none, or it needs features that are not here."""
    path, live = folder / "champion.onnx", the.job.get("champion")
    if live is None or not path.exists():
        return None
    features, texts = live["features"], live.get("texts", [])
    if not (set(features) <= set(the.names) and set(texts) <= set(the.texts)):
        return None
    return _Live(export.session(path.read_bytes()), features, texts, live["trained_to_ms"])


def _champion(live: _Live, judged: pa.Table, task: losses.Task) -> Floats | None:
    """Return what the live version says of the judged rows, NaN where it is not asked; None if it is of another task."""
    asked = making.asked_beside(judged["event_time_ms"].to_numpy(), live.trained_to_ms)
    answered = export.answers(live.session, live.inputs(judged.filter(pa.array(asked))))
    if (answered.ndim == 2) != (task == "multiclass"):
        return None
    said = np.full((len(judged), *answered.shape[1:]), np.nan)
    said[asked] = answered
    return said


def _metrics(task: losses.Task, label: Any, predictions: Any, champion: Any) -> dict[str, float]:
    found: dict[str, float] = {}
    for prefix, said in (("", predictions), ("champion_", champion)):
        if said is not None:
            asked = losses.answered(said)
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
        **classes.evaluated(predictions, champion),
    }
    for name in groups:
        columns[name] = judged[group_column(name)]
    inputs.write(path, pa.table(columns))
