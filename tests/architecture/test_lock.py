"""requirements.lock: hashed, from no named index, and made from the manifests as they are now."""

import ast
import importlib.util
import re
import tomllib
from importlib.metadata import packages_distributions
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).parents[2]
LOCK = (ROOT / "requirements.lock").read_text()
MANIFESTS = sorted([*ROOT.glob("libs/*/pyproject.toml"), *ROOT.glob("services/*/pyproject.toml")])
PROJECTS = [tomllib.loads(path.read_text())["project"] for path in MANIFESTS]
OWN = {project["name"] for project in PROJECTS}
DISTRIBUTIONS = packages_distributions()
TOOLS = {"grpc_tools", "pytest"}
"""What generators of code and the plugin for tests import, which only a checkout uses."""


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


def imported(package: Path) -> set[str]:
    """Return what a package's modules import, wherever they do; but for `testing.py`, which only a checkout uses."""
    found: set[str] = set()
    for file in {*package.rglob("*.py")} - {package / "testing.py"}:
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.Import):
                found |= {alias.name for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
                found |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return found


def providers(module: str) -> set[str]:
    """Return the distributions that any of them is enough for to import `module`."""
    if module.startswith("google.rpc"):  # `google` is a namespace of several distributions
        return {"googleapis-common-protos"}
    if module.startswith("google."):
        return {"protobuf"}
    if module.startswith("opentelemetry."):
        return {"opentelemetry-api", "opentelemetry-sdk", "opentelemetry-exporter-otlp-proto-grpc"}
    return {name_of(each) for each in DISTRIBUTIONS.get(module.partition(".")[0], ())}


@pytest.mark.parametrize("manifest", MANIFESTS, ids=lambda path: path.parent.name)
def test_a_manifest_declares_what_its_code_imports(manifest: Path) -> None:
    project = tomllib.loads(manifest.read_text())["project"]
    extras = project.get("optional-dependencies", {}).values()
    requirements = [*project["dependencies"], *(each for extra in extras for each in extra)]
    declared = {name_of(requirement) for requirement in requirements} | {project["name"]}
    package = next(path.parent for path in manifest.parent.glob("trimtab*/__init__.py"))

    lacking = {
        " or ".join(sorted(wanted))
        for module in imported(package)
        if (wanted := providers(module)) and not wanted & declared and module.partition(".")[0] not in TOOLS
    }

    assert lacking == set(), f"add them to {manifest.relative_to(ROOT)}, and run `make lock`"
