"""The rooms: the import contracts in pyproject.toml hold, cover everything, and each of them can fail."""

import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SETTINGS = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]
SERVICES = sorted(path.parent.name for path in (ROOT / "services").glob("*/pyproject.toml"))
PACKAGES = sorted(
    path.parent
    for room in ("libs/*/trimtab*", "services/*/trimtab_*")
    for path in ROOT.glob(f"{room}/__init__.py")
)

FAULTS = {
    "services know each other by messages alone": {
        "trimtab_ingestion/config.py": "import trimtab_registry.config"
    },
    "services stand on the runtime, and all on contracts and core": {
        "trimtab_runtime/clock.py": "import trimtab_stack.errors"
    },
    "what starts and asks services imports none": {"trimtab/project.py": "import trimtab_serving.config"},
    "core decides, with no door open": {"trimtab_core/durations.py": "import trimtab_contracts"},
    "use cases name no transport, no database and no message": {
        "trimtab_ingestion/usecases.py": "import asyncpg"
    },
    **{
        f"rooms of {service}": {f"trimtab_{service}/config.py": f"import trimtab_{service}.app"}
        for service in SERVICES
    },
    "rooms of training": {"trimtab_training/errors.py": "import trimtab_training.making"},
}


def verdicts(folder: Path) -> dict[str, bool]:
    """Return which contracts hold for the packages that `folder` has, or those that are installed."""
    command = [
        str(Path(sys.executable).parent / "lint-imports"),
        "--no-cache",
        "--config",
        str(ROOT / "pyproject.toml"),
    ]
    said = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False).stdout
    found = {name: kept == "KEPT" for name, kept in re.findall(r"^(.+) (KEPT|BROKEN)$", said, re.MULTILINE)}
    assert found, said
    return found


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    for package in PACKAGES:
        shutil.copytree(package, tmp_path / package.name, ignore=shutil.ignore_patterns("__pycache__"))
    return tmp_path


def test_every_package_is_looked_at_and_all_that_has_rooms_is_listed() -> None:
    assert sorted(SETTINGS["root_packages"]) == sorted(package.name for package in PACKAGES)
    assert {contract["name"] for contract in SETTINGS["contracts"]} == FAULTS.keys()


def test_the_contracts_hold() -> None:
    assert [name for name, kept in verdicts(ROOT).items() if not kept] == [], (
        "`make imports` says what is wrong"
    )


def test_every_contract_can_fail(copy: Path) -> None:
    for faults in FAULTS.values():
        for file, line in faults.items():
            with (copy / file).open("a") as source:
                source.write(f"\n{line}\n")

    assert verdicts(copy) == dict.fromkeys(FAULTS, False)


def test_a_new_module_must_be_given_a_room(copy: Path) -> None:
    for name in (*SERVICES, "training"):
        (copy / f"trimtab_{name}" / "utils.py").write_text("")

    assert verdicts(copy) == {name: not name.startswith("rooms of ") for name in FAULTS}
