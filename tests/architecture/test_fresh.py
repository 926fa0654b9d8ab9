"""What is made from something else and committed is what would be made from it now."""

import importlib.util
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def load_generator() -> dict[str, str]:
    spec = importlib.util.spec_from_file_location("docs_generate", ROOT / "docs/generate.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    pages: dict[str, str] = module.render()
    return pages


PAGES = load_generator()


@pytest.mark.parametrize("name", PAGES)
def test_a_page_says_what_the_code_says(name: str) -> None:
    assert (ROOT / "docs" / name).read_text() == PAGES[name], "run `python docs/generate.py`"


def test_generated_code_is_what_the_protos_say(tmp_path: Path) -> None:
    # The command is the Makefile's own, with another place to write to; -o: nothing is set up anew for it.
    make = ["make", "--dry-run", "--silent", "--old-file=.venv/.installed", "protos"]
    recipe = subprocess.run(make, cwd=ROOT, check=True, capture_output=True, text=True).stdout
    assert "libs/contracts" in recipe
    subprocess.run(["bash", "-ec", recipe.replace("libs/contracts", str(tmp_path))], cwd=ROOT, check=True)

    package = "trimtab_contracts"
    made = {path.relative_to(tmp_path): path.read_text() for path in tmp_path.rglob("*_pb2*.py*")}
    there = {
        path.relative_to(ROOT / "libs/contracts"): path.read_text()
        for path in (ROOT / "libs/contracts" / package).rglob("*_pb2*.py*")
        if path.suffix != ".pyc"
    }
    assert made.keys() == there.keys()
    assert [path for path in made if made[path] != there[path]] == [], "run `make protos`"
