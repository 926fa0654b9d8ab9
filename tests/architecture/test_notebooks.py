"""The committed notebooks were executed, from the first cell to the last, and show nothing of the machine."""

import json
import re
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
NOTEBOOKS = sorted((ROOT / "docs/notebooks").glob("*.ipynb"))
MACHINE = r"(?:^|[\s'\"(=])/(?:home|root|tmp|usr|var|work|Users)/|127\.0\.0\.1|localhost|\[::1?\]"


def cells(notebook: Path) -> list[dict[str, Any]]:
    return [cell for cell in json.loads(notebook.read_text())["cells"] if cell["cell_type"] == "code"]


@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda path: path.name)
def test_a_notebook_was_executed_whole_and_failed_nowhere(notebook: Path) -> None:
    executed = cells(notebook)

    assert [cell["execution_count"] for cell in executed] == list(range(1, len(executed) + 1))
    kinds = {output["output_type"] for cell in executed for output in cell["outputs"]}
    assert "execute_result" in kinds
    assert "error" not in kinds


@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda path: path.name)
def test_a_notebook_shows_nothing_of_the_machine(notebook: Path) -> None:
    assert re.findall(MACHINE, notebook.read_text(), re.MULTILINE) == []


def test_there_is_a_notebook_and_what_is_of_a_machine_is_seen() -> None:
    assert NOTEBOOKS
    for shown in ('"/tmp/x/page.html"', "at 127.0.0.1:4000", "File /root/x.py"):
        assert re.search(MACHINE, shown)
    assert not re.search(MACHINE, "raw.roads-asks/1/0 and docs/tmp/x")
