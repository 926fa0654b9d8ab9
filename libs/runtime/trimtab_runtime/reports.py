"""Evidently, asked for a report of some columns, which is all that is wanted of it.

It takes seconds to be imported, so that happens when the first report is made and not
before. It tells nobody that it is used, and warns of nothing.
"""

import os
import warnings
from collections.abc import Sequence
from typing import Any, Final, Literal

LABEL: Final = "label"
PREDICTION: Final = "prediction"


def report(
    presets: Sequence[str],
    current: Any,
    reference: Any = None,
    *,
    scored: Literal["regression", "binary", "multiclass"] | None = None,
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

        definition = DataDefinition(
            **{what: list(names) for what, names in columns.items()}, **_roles(scored, positive)
        )
        datasets = [
            None if frame is None else Dataset.from_pandas(frame, data_definition=definition)
            for frame in (current, reference)
        ]
        asked = [*presets, *_presets(scored)]
        return Report([getattr(known, name)() for name in asked]).run(*datasets)


def _presets(scored: str | None) -> list[str]:
    if scored is None:
        return []
    return ["RegressionPreset" if scored == "regression" else "ClassificationPreset"]


def _roles(scored: str | None, positive: str) -> dict[str, Any]:
    from evidently import BinaryClassification, MulticlassClassification, Regression

    if scored is None:
        return {}
    if scored == "regression":
        return {"regression": [Regression(target=LABEL, prediction=PREDICTION)]}
    if scored == "multiclass":
        return {"classification": [MulticlassClassification(target=LABEL, prediction_labels=PREDICTION)]}
    binary = BinaryClassification(
        target=LABEL, prediction_labels=None, prediction_probas=PREDICTION, pos_label=positive
    )
    return {"classification": [binary]}
