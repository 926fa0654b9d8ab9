"""What is told of a candidate beside what its gates read: how good it is and where, what it leans on.

It is of the held-out rows, each predicted by a fit to what was known before it. What a
model leans on is asked of the graph that is let out, so of any kind of model alike; it
says what that graph makes its answers of, not what would hold of new rows.
All of it is bounded in time, whatever the rows (see `trimtab_core.evidence` and
`trimtab_core.importance`), the learning curve aside, for which a spec has to ask.
"""

import io
from collections.abc import Callable, Mapping, Sequence
from contextlib import redirect_stdout
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from trimtab_core import evidence
from trimtab_core.curves import curves
from trimtab_core.evidence import Measure
from trimtab_core.importance import REPEATS, leanings
from trimtab_core.losses import Task, answered
from trimtab_core.specs import ModelSpec, group_column
from trimtab_training import export, fitting
from trimtab_training.families import Floats, Matrix
from trimtab_training.inputs import Inputs

_SHARE_OF_LONG = 1 / 4
"""Of the rows that importance is asked of otherwise."""
_SHARES = (1 / 8, 1 / 4, 1 / 2, 1.0)


@dataclass(frozen=True, slots=True)
class Found:
    """The evidence: all of it as a document, and its figures."""

    document: Mapping[str, Any]
    measures: Mapping[str, Measure]

    @property
    def values(self) -> dict[str, float]:
        """The figures by name."""
        return {name: measure.value for name, measure in self.measures.items()}

    @property
    def intervals(self) -> dict[str, tuple[float, float]]:
        """The bounds of those figures whose rows can tell."""
        return {
            name: (measure.low, measure.high)
            for name, measure in self.measures.items()
            if measure.low is not None and measure.high is not None
        }


def found(
    spec: ModelSpec,
    table: pa.Table,
    names: Sequence[str],
    rows: fitting.Rows,
    judged: slice,
    predictions: Floats,
    champion: Floats | None,
    session: Any,
    every: int,
    *,
    fitted: bool = True,
) -> Found:
    """Return the evidence of a candidate, whose graph is ready to be asked.

    `table` has the rows' columns, `names` are those that are features, and `champion` is NaN where it was not asked. The fits
    that judge it saw each `every`th row; where these were not all, a graph takes long, and is asked less of what it leans on.
    What was not `fitted` but brought has no learning curve.
    """
    label, times, task = rows.label[judged], rows.event_time_ms[judged], spec.task
    measure = partial(evidence.measures, task, seed=spec.trainer.seed)
    measures = measure(label, predictions)
    wanted = _wanted(spec)
    answers, shown = _asked(session, task, rows.features[judged])
    leaning, asked = leanings(
        answers,
        spec.judged_by,
        names,
        shown,
        label,
        seed=spec.trainer.seed,
        share=1.0 if every == 1 else _SHARE_OF_LONG,
    )
    document = {
        "task": task,
        "judged_by": spec.judged_by,
        "confidence": evidence.CONFIDENCE,
        "rows": len(label),
        "from_ms": int(times[0]),
        "to_ms": int(times[-1]),
        "measures": _plain(measures),
        "champion": None if champion is None else _beside(measure, label, champion),
        "slices": [
            _told(evidence.sliced(task, label, predictions, by, column, seed=spec.trainer.seed))
            for by, column in _columns(table.slice(judged.start), wanted)
        ],
        "classes": _told(evidence.by_class(label, predictions, spec.label.classes, seed=spec.trainer.seed))
        if task == "multiclass"
        else None,
        "curves": curves(task, label, predictions, times, spec.label.classes),
        "importance": {
            "metric": spec.judged_by,
            "rows": asked,
            "repeats": REPEATS,
            "features": [asdict(each) for each in leaning],
        },
        "learning": _learning(spec, rows, judged)
        if fitted and spec.evidence is not None and spec.evidence.learning_curve
        else [],
    }
    return Found(document, measures)


def _wanted(spec: ModelSpec) -> list[str]:
    """Return what to slice by: the groups of gates and of monitoring, and what the spec says beside."""
    return [*dict.fromkeys([*spec.groups, *(spec.evidence.slices if spec.evidence else ())])]


def _columns(judged: pa.Table, wanted: Sequence[str]) -> list[tuple[str, NDArray[Any]]]:
    """Return the columns to slice by, each a feature or a field of the request."""
    found = []
    for name in wanted:
        places = (group_column(name), name, f"request.{name}")
        column = next(each for each in places if each in judged.column_names)
        found.append((name, judged[column].to_numpy(zero_copy_only=False)))
    return found


def _answers(session: Any, task: Task) -> Callable[[Any], Floats]:
    """Return what a graph answers; a probability that rounding has put beyond 0 or 1 is within."""
    predict = partial(export.answers, session)
    return predict if task == "regression" else lambda features: np.clip(predict(features), 0, 1)


def _asked(session: Any, task: Task, shown: Matrix | Inputs) -> tuple[Callable[[Matrix], Floats], Matrix]:
    """Return what a graph answers and what it is asked; beside texts that is, column by column, the row that each value is of."""
    answers = _answers(session, task)
    if not isinstance(shown, Inputs):
        return answers, shown
    width = shown.numbers.shape[1] + shown.texts.shape[1]
    places = np.repeat(np.arange(len(shown))[:, None], width, axis=1)

    def of(rows: NDArray[Any]) -> Floats:
        at, split = rows.astype(np.int64), shown.numbers.shape[1]
        numbers = np.take_along_axis(shown.numbers, at[:, :split], axis=0)
        texts = np.take_along_axis(shown.texts, at[:, split:], axis=0)
        return answers(Inputs(numbers, texts, shown.words))

    return of, places.astype(np.float32)  # which is exact for 16 million held-out rows


def _beside(measure: Callable[..., dict[str, Measure]], label: Floats, said: Floats) -> dict[str, Any]:
    asked = answered(said)
    return {"rows": int(asked.sum()), "measures": _plain(measure(label[asked], said[asked]))}


def _learning(spec: ModelSpec, rows: fitting.Rows, judged: slice) -> list[dict[str, Any]]:
    """Return how good fits to growing shares of the older rows, the newest of them, are on the held-out ones."""
    known, found = fitting.known(rows, judged.start, spec), []
    for share in _SHARES:
        taken = slice(known.stop - round(known.stop * share), known.stop)
        with redirect_stdout(io.StringIO()):
            said = fitting.fit(spec, rows[taken]).predict(rows.features[judged])
        measures = evidence.measures(spec.task, rows.label[judged], said, seed=spec.trainer.seed)
        found.append({"rows": taken.stop - taken.start, **asdict(measures[spec.judged_by])})
    return found


def _told(sliced: evidence.Sliced) -> dict[str, Any]:
    slices = [{"of": each.of, "rows": each.rows, "measures": _plain(each.measures)} for each in sliced.slices]
    return {"by": sliced.by, "slices": slices, "left_out": sliced.left_out}


def _plain(measures: Mapping[str, Measure]) -> dict[str, list[float | None]]:
    """Return figures as [value, low, high]."""
    return {name: [each.value, each.low, each.high] for name, each in measures.items()}
