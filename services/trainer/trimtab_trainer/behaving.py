"""The behavioural tests of a model's users, held against the exported graph.

They lie in `tests.json` in the job's folder, as they were applied when the job began.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from trimtab_core.behaviour import behave
from trimtab_core.specs import ModelTest
from trimtab_training import export
from trimtab_training.errors import RunFailed
from trimtab_training.inputs import Inputs, Matrix

from trimtab_trainer.usecases.entities import TESTS


def results(
    folder: Path, session: Any, names: Sequence[str], held_out: Matrix | Inputs
) -> list[dict[str, Any]]:
    """Return what each test found of a graph of the features `names`, ready to be asked, as the candidate tells it.

    Raises:
        RunFailed: the graph takes texts, which tests cannot state yet.
    """
    path = folder / TESTS
    if not path.exists():
        return []
    if isinstance(held_out, Inputs):
        raise RunFailed(
            "behavioural tests state numbers, and a feature of this model is a text: delete the tests, or leave it out"
        )
    found = []
    for document in json.loads(path.read_text()):
        test = ModelTest.model_validate(document)
        for name, finding in behave(test.spec, names, held_out, lambda rows: export.answers(session, rows)):
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
