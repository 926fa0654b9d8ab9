"""The behavioural tests of a model's users, held against the exported graph.

They lie in `tests.json` in the job's folder, as they were applied when the job began.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from trimtab_core.behaviour import behave
from trimtab_core.specs import ModelTest

from trimtab_trainer import export
from trimtab_trainer.families import Matrix
from trimtab_trainer.usecases.entities import TESTS


def results(folder: Path, graph: bytes, names: Sequence[str], held_out: Matrix) -> list[dict[str, Any]]:
    """Return what each test found of a graph of the features `names`, as the candidate tells it."""
    path = folder / TESTS
    if not path.exists():
        return []
    session = export.session(graph)
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
