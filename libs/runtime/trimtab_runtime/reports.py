"""Evidently, asked for a report of some columns, which is all that is wanted of it.

It takes seconds to be imported, so that happens when the first report is made and not
before. It tells nobody that it is used, and warns of nothing.
"""

import os
import warnings
from collections.abc import Sequence
from typing import Any


def report(presets: Sequence[str], current: Any, reference: Any = None, **columns: Sequence[str]) -> Any:
    """Return Evidently's report of a pandas frame, beside a reference if there is one.

    `presets` are names from `evidently.presets`; `columns` are names of columns by what they hold, as
    `evidently.DataDefinition` takes them: `numerical_columns`, `categorical_columns`, `datetime_columns`.
    """
    os.environ["DO_NOT_TRACK"] = "1"  # noqa: TID251 - read by Evidently when it is imported
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from evidently import DataDefinition, Dataset, Report
        from evidently import presets as known

        definition = DataDefinition(**{what: list(names) for what, names in columns.items()})
        datasets = [
            None if frame is None else Dataset.from_pandas(frame, data_definition=definition)
            for frame in (current, reference)
        ]
        return Report([getattr(known, name)() for name in presets]).run(*datasets)
