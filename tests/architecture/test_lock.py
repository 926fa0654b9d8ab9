"""requirements.lock: hashed, from no named index, and made from the manifests as they are now."""

import importlib.util
import re
import tomllib
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).parents[2]
LOCK = (ROOT / "requirements.lock").read_text()
MANIFESTS = sorted([*ROOT.glob("libs/*/pyproject.toml"), *ROOT.glob("services/*/pyproject.toml")])
PROJECTS = [tomllib.loads(path.read_text())["project"] for path in MANIFESTS]
OWN = {project["name"] for project in PROJECTS}


def load_closure() -> ModuleType:
    spec = importlib.util.spec_from_file_location("docker_closure", ROOT / "infra/docker/closure.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


closure = load_closure()
ENTRIES = closure.entries(LOCK)


def name_of(requirement: str) -> str:
    match = re.match(r"[A-Za-z0-9._-]+", requirement)
    assert match
    return re.sub(r"[-_.]+", "-", match[0]).lower()


def test_every_requirement_has_its_hashes() -> None:
    assert len(ENTRIES) > 50
    assert [
        entry.name for entry in ENTRIES if not any("--hash=sha256:" in line for line in entry.lines)
    ] == []


def test_no_index_no_address_and_no_path_is_named() -> None:
    assert re.findall(r"^.*(?:://|--index-url|--find-links|file:| @ ).*$", LOCK, re.MULTILINE) == []


@pytest.mark.parametrize("project", PROJECTS, ids=lambda project: project["name"])
def test_the_lock_has_what_a_manifest_asks_for(project: dict[str, list[str]]) -> None:
    asked = {name_of(requirement) for requirement in project["dependencies"]} - OWN
    locked = {entry.name for entry in ENTRIES if project["name"] in entry.needers}

    assert asked == locked, "run `make lock`"


def test_the_lock_has_the_tools() -> None:
    groups = tomllib.loads((ROOT / "pyproject.toml").read_text())["dependency-groups"]

    assert {name_of(requirement) for requirement in groups["dev"]} <= {entry.name for entry in ENTRIES}


def test_a_part_of_the_lock_is_whole_and_no_more() -> None:
    lock = "\n".join([
        "a==1 ; python_full_version < '3.12' \\", "    --hash=sha256:1", "    # via b",
        "a==2 ; python_full_version >= '3.12' \\", "    --hash=sha256:2", "    # via b",
        "b==1 \\", "    --hash=sha256:3", "    # via", "    #   trimtab-x (services/x/pyproject.toml)", "    #   c",
        "c==1 \\", "    --hash=sha256:4", "    # via trimtab-y (services/y/pyproject.toml)",
    ])  # fmt: skip

    part = closure.entries(closure.closure(lock, ["trimtab-x"]))

    assert [(entry.name, entry.lines[0][:4]) for entry in part] == [
        ("a", "a==1"),
        ("a", "a==2"),
        ("b", "b==1"),
    ]
    with pytest.raises(SystemExit, match="knows nothing of trimtab-z"):
        closure.closure(lock, ["trimtab-z"])
