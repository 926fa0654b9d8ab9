"""Evidently, asked for a report of some columns, which is all that is wanted of it.

It takes seconds to be imported, so that happens when the first report is made and not
before. It tells nobody that it is used, and warns of nothing.
"""

import os
import warnings
from collections.abc import Sequence
from typing import Any, Final

from trimtab_core.losses import Task

LABEL: Final = "label"
PREDICTION: Final = "prediction"


def report(
    presets: Sequence[str],
    current: Any,
    reference: Any = None,
    *,
    scored: Task | None = None,
    positive: str = "1",
    **columns: Sequence[str],
) -> Any:
    """Return Evidently's report of a pandas frame, beside a reference if there is one.

    `presets` are names from `evidently.presets`; `columns` are names of columns by what they hold, as
    `evidently.DataDefinition` takes them: `numerical_columns`, `categorical_columns`, `datetime_columns`. What is `scored` has
    the columns `label` and `prediction` (of `binary` the chance of the label `positive`), and a part on how well the one tells the other.
    """
    os.environ["DO_NOT_TRACK"] = "1"  # noqa: TID251 - read by Evidently when it is imported
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from evidently import DataDefinition, Dataset, Report
        from evidently import presets as known

        part, roles = _scoring(scored, positive)
        definition = DataDefinition(**{what: list(names) for what, names in columns.items()}, **roles)
        datasets = [
            None if frame is None else Dataset.from_pandas(frame, data_definition=definition)
            for frame in (current, reference)
        ]
        return Report([getattr(known, name)() for name in (*presets, *part)]).run(*datasets)


def _scoring(task: Task | None, positive: str) -> tuple[list[str], dict[str, Any]]:
    """Return the presets by which predictions are scored, and which columns they read."""
    from evidently import BinaryClassification, MulticlassClassification, Regression

    match task:
        case None:
            return [], {}
        case "regression":
            return ["RegressionPreset"], {"regression": [Regression(target=LABEL, prediction=PREDICTION)]}
        case "binary":
            of: Any = BinaryClassification(
                target=LABEL, prediction_labels=None, prediction_probas=PREDICTION, pos_label=positive
            )
        case "multiclass":
            of = MulticlassClassification(target=LABEL, prediction_labels=PREDICTION)
    return ["ClassificationPreset"], {"classification": [of]}
