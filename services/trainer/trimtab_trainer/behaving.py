"""The behavioural tests of a model's users, held against the exported graph.

They lie in `tests.json` in the job's folder, as they were applied when the job began.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from trimtab_core.behaviour import Asked, behave
from trimtab_core.specs import ModelTest
from trimtab_training import export
from trimtab_training.inputs import Inputs, Matrix, pair

from trimtab_trainer.usecases.entities import TESTS


def results(
    folder: Path,
    session: Any,
    names: Sequence[str],
    texts: Sequence[str],
    classes: Sequence[str],
    held_out: Matrix | Inputs,
) -> list[dict[str, Any]]:
    """Return what each test found of a graph, ready to be asked, as the candidate tells it.

    It is of the features `names`, which are numbers, of `texts`, and of the `classes` of a label, if it has such.
    """
    path = folder / TESTS
    if not path.exists():
        return []

    def predict(numbers: Any, words: Any) -> Any:
        shown = Inputs(numbers, words, held_out.words) if isinstance(held_out, Inputs) else numbers
        return export.answers(session, shown)

    found, asked = [], Asked(names, texts, classes, pair(held_out), predict)
    for document in json.loads(path.read_text()):
        test = ModelTest.model_validate(document)
        for name, finding in behave(test.spec, asked):
            found.append(
                {
                    "gate": f"test {test.name}: {name}",
                    "passed": finding.passed,
                    "value": finding.value or 0.0,
                    "limit": finding.limit,
                    "sentence": finding.sentence,
                }
            )
    return found
