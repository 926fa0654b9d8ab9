"""Reads the YAML a user writes into resources, and says everything that is wrong with it.

A fault names the file, the line, the key, the value and the remedy. All faults of all
files are found before any is reported, so that one look is enough.
"""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError
from trimtab_core import specs
from trimtab_runtime.errors import Rejected


class _Loader(yaml.SafeLoader):
    """YAML in which only true and false are booleans, as in YAML 1.2: `on` is a key that specs have."""

    yaml_implicit_resolvers = {
        first: [(tag, pattern) for tag, pattern in resolvers if tag != "tag:yaml.org,2002:bool"]
        for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }


_Loader.add_implicit_resolver("tag:yaml.org,2002:bool", re.compile("^(?:true|false)$"), list("tf"))

Resource = specs.Source | specs.FeatureView | specs.Model


@dataclass(frozen=True, slots=True)
class Fault:
    """One thing that is wrong, and where."""

    file: str
    line: int
    key: str
    sentence: str

    def __str__(self) -> str:
        return f"{self.file}:{self.line}: {self.key}: {self.sentence}"


class BadProject(Rejected):
    """The files make no project; it lists every fault."""

    def __init__(self, faults: Sequence[Fault]) -> None:
        super().__init__("\n".join(map(str, faults)))
        self.faults = list(faults)


def load(path: Path) -> list[Resource]:
    """Return the resources in a YAML file, or in all YAML files of a folder.

    Raises:
        BadProject: something is wrong; it says everything.
    """
    files = [path] if path.is_file() else sorted([*path.glob("*.yaml"), *path.glob("*.yml")])
    if not files:
        raise BadProject(
            [Fault(str(path), 0, "", "there is no such file, or no YAML file in the folder: name one")]
        )
    resources: list[Resource] = []
    faults: list[Fault] = []
    for file in files:
        found, wrong = parse(file.read_text(), file=str(file))
        resources += found
        faults += wrong
    if faults:
        raise BadProject(faults)
    return resources


def parse(text: str, *, file: str = "<text>") -> tuple[list[Resource], list[Fault]]:
    """Return the resources in a YAML text of one or several documents, and what is wrong with the others."""
    resources: list[Resource] = []
    faults: list[Fault] = []
    try:
        nodes = list(yaml.compose_all(text, Loader=_Loader))
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 1
        return [], [Fault(file, line, "", f"this is no YAML ({error.problem}): mend the syntax")]
    documents = yaml.load_all(text, Loader=_Loader)
    for node, document in zip(nodes, documents, strict=True):
        if document is None:
            continue
        resource, wrong = _resource(node, document, file)
        resources += [resource] if resource else []
        faults += wrong
    return resources, faults


def _resource(node: yaml.Node, document: Any, file: str) -> tuple[Resource | None, list[Fault]]:
    if not isinstance(document, dict):
        return None, [
            Fault(file, _line(node, ()), "", "this is no mapping: write apiVersion, kind, metadata and spec")
        ]
    kind = document.get("kind")
    if kind not in specs.KINDS:
        known = ", ".join(specs.KINDS)
        return None, [
            Fault(
                file, _line(node, ("kind",)), "kind", f"{kind!r} is no kind of resource: write one of {known}"
            )
        ]
    try:
        return specs.parse(kind, document), []
    except ValidationError as error:
        return None, [_fault(node, fault, file) for fault in error.errors()]


def _fault(node: yaml.Node, fault: Any, file: str) -> Fault:
    place = tuple(part for part in fault["loc"] if isinstance(part, str | int))
    return Fault(file, _line(node, place), ".".join(map(str, place)), _sentence(fault))


def _sentence(fault: Any) -> str:
    """Say what a pydantic fault means, with the value and the remedy."""
    value, context = fault.get("input"), fault.get("ctx", {})
    match fault["type"]:
        case "missing":
            return "it is missing: add it"
        case "extra_forbidden":
            return f"there is no such key (its value is {value!r}): remove it, or mend its spelling"
        case "literal_error":
            return f"{value!r} is not allowed: write {context['expected']}"
        case "value_error":
            return str(context["error"])
        case "string_pattern_mismatch":
            return f"{value!r} is no name of the form {context['pattern']}: change it"
        case _:
            return f"{value!r} will not do: {fault['msg'][:1].lower()}{fault['msg'][1:]}"


def _line(node: yaml.Node, place: Iterable[str | int]) -> int:
    """Return the line, from 1, of the deepest node along `place` that is there."""
    for part in place:
        deeper = _step(node, part)
        if deeper is None:
            break
        node = deeper
    return int(node.start_mark.line) + 1


def _step(node: yaml.Node, part: str | int) -> yaml.Node | None:
    if isinstance(node, yaml.MappingNode):
        return next((value for key, value in node.value if key.value == str(part)), None)
    if isinstance(node, yaml.SequenceNode) and isinstance(part, int) and part < len(node.value):
        found: yaml.Node = node.value[part]
        return found
    return None
