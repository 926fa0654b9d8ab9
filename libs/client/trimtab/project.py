"""Reads the YAML a user writes into resources, and says everything that is wrong with it.

A fault names the file, the line, the key, the value and the remedy. All faults of all
files are found before any is reported. What only the registry can tell, whether specs
fit together with each other and with what is applied, it is asked about the readable
ones even where others are faulty, so that one look is enough.
"""

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError
from trimtab_core import specs
from trimtab_runtime import errors
from trimtab_runtime.errors import Rejected

from trimtab import wheels
from trimtab.registering import File


class _Loader(yaml.SafeLoader):
    """YAML of what JSON has: only true and false are booleans (`on` is a key that specs have), and a date is a text."""

    yaml_implicit_resolvers = {
        first: [
            (tag, pattern)
            for tag, pattern in resolvers
            if tag not in ("tag:yaml.org,2002:bool", "tag:yaml.org,2002:timestamp")
        ]
        for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }


_Loader.add_implicit_resolver("tag:yaml.org,2002:bool", re.compile("^(?:true|false)$"), list("tf"))


@dataclass(frozen=True, slots=True)
class Fault:
    """One thing that is wrong, and where."""

    file: str
    line: int
    """From 1; 0 where the fault is the file's."""
    key: str
    """Keys from the document's top, with dots between; empty where the fault is the document's."""
    sentence: str

    def __str__(self) -> str:
        place = f"{self.file}:{self.line}" if self.line else self.file
        return f"{place}: {self.key}: {self.sentence}" if self.key else f"{place}: {self.sentence}"


class BadProject(Rejected):
    """The files make no project; it lists every fault."""

    def __init__(self, faults: Sequence[Fault]) -> None:
        self.places = sorted(faults, key=lambda fault: (fault.file, fault.line))
        super().__init__("\n".join(map(str, self.places)))


@dataclass(frozen=True, slots=True)
class _Document:
    """One YAML document, and where its parts stand."""

    file: str
    node: yaml.Node
    content: Any

    def fault(self, place: specs.Place, sentence: str) -> Fault:
        key = ".".join(map(str, place))
        return Fault(self.file, _line(self.node, place), key, sentence)


class Project:
    """Resources, and where each was written; with what is wrong with the documents that make none."""

    def __init__(self) -> None:
        self.resources: list[specs.Resource] = []
        self.tests: list[specs.ProjectTest] = []
        """What stays here, for `trimtab test`."""
        self.faults: list[Fault] = []
        self.files: list[File] = []
        """What the resources name by digest, and `apply` sends."""
        self.unreadable: list[dict[str, Any]] | None = []
        """Kind, name and version of what else is meant to be there, None if that cannot be told of all."""
        self._documents: dict[str, _Document] = {}

    def add(self, resource: specs.Resource, document: _Document) -> None:
        """Take one more in, and the files that it names, which lie where its own does.

        Raises:
            Unsent: one of them cannot be sent.
        """
        resource, files = wheels.pinned(resource, Path(document.file).parent)
        self.files += files
        self.resources.append(resource)
        self._documents[resource.key] = document

    def add_test(self, test: specs.ProjectTest, document: _Document) -> None:
        """Take in what stays here."""
        self.tests.append(test)
        self._documents[test.key] = document

    def place_of(self, key: str, place: specs.Place = ()) -> str:
        """Return file and line of a part of what has a kind/name."""
        fault = self._documents[key].fault(place, "")
        return f"{fault.file}:{fault.line}"

    def miss(self, document: _Document | None = None) -> None:
        """Take note that something is meant to be there, and what it is called, if it says so."""
        content = document.content if document and isinstance(document.content, dict) else {}
        kind, metadata = content.get("kind"), content.get("metadata")
        name = metadata.get("name") if isinstance(metadata, dict) else None
        if not isinstance(name, str) or self.unreadable is None:
            self.unreadable = None
            return
        kinds = list(specs.KINDS) if specs.kind_fault(kind) else [kind]
        spec = content.get("spec")
        version = spec.get("version") if isinstance(spec, dict) else None
        rest = {"spec": {"version": version}} if isinstance(version, int) and 1 < version < 10_000 else {}
        self.unreadable += [{"kind": each, "metadata": {"name": name}} | rest for each in kinds]

    def placed(self, refusal: Rejected) -> list[Fault]:
        """Return the faults of these resources that a refusal names, with the file and line of each."""
        missed = set(map(specs.called, self.unreadable or ()))
        theirs = missed - self._documents.keys()
        return [self._placed(fault) for fault in refusal.faults if fault.resource not in theirs]

    def _placed(self, fault: errors.Fault) -> Fault:
        document = self._documents.get(fault.resource)
        if document is None:
            return Fault(f"{fault.resource} (applied before)", 0, fault.path, fault.sentence)
        place = tuple(int(part) if part.isdecimal() else part for part in fault.path.split("."))
        return document.fault(place, fault.sentence)


def read(path: Path) -> Project:
    """Return what is in a YAML file, or in all YAML files of a folder and of its folder `tests`, faults and all."""
    project = Project()
    folders = (path, path / "tests")
    found = [each for folder in folders for form in ("*.yaml", "*.yml") for each in folder.glob(form)]
    files = [path] if path.is_file() else sorted(found)
    if not files:
        what = "the folder has no YAML file" if path.is_dir() else "there is no such file"
        project.faults.append(Fault(str(path), 0, "", f"{what}: name another"))
    for file in files:
        project.faults += _read(file, project)
    if not project.faults and not project.resources and not project.tests:
        said = "no resource is written there: write one, with kind, metadata and spec"
        project.faults.append(Fault(str(path), 0, "", said))
    return project


def load(path: Path) -> Project:
    """Return the resources in a YAML file, or in all YAML files of a folder.

    Raises:
        BadProject: something is wrong; it says everything.
    """
    return _whole(read(path))


def parse(text: str, *, file: str = "<text>") -> Project:
    """Return the resources in a YAML text of one or several documents.

    Raises:
        BadProject: something is wrong; it says everything.
    """
    project = Project()
    project.faults += _parse(text, file, project)
    return _whole(project)


def _whole(project: Project) -> Project:
    if project.faults:
        raise BadProject(project.faults)
    return project


def _read(file: Path, project: Project) -> Iterator[Fault]:
    try:
        text = file.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        project.miss()
        line = error.object[: error.start].count(b"\n") + 1
        byte = error.object[error.start]
        yield Fault(str(file), line, "", f"byte 0x{byte:02x} is no UTF-8: save the file in that encoding")
    except OSError as error:
        project.miss()
        yield Fault(str(file), 0, "", f"it cannot be read ({error.strerror}): mend that, or name another")
    else:
        yield from _parse(text, str(file), project)


def _parse(text: str, file: str, project: Project) -> Iterator[Fault]:
    """Add the resources in `text` to `project`, and yield what is wrong with the other documents."""
    try:
        loader = _Loader(text)
        while loader.check_node():
            node = loader.get_node()
            assert node is not None
            yield from _repeated(node, file)
            try:
                document = _Document(file, node, loader.construct_document(node))
            except yaml.MarkedYAMLError as error:
                project.miss()
                yield _syntax_fault(file, error)
                continue
            if document.content is not None:
                yield from _add(document, project)
    except yaml.MarkedYAMLError as error:
        project.miss()
        yield _syntax_fault(file, error)
    except yaml.reader.ReaderError as error:
        project.miss()
        line = text[: error.position].count("\n") + 1
        yield Fault(file, line, "", f"character {error.character:#x} is not allowed in YAML: remove it")
    except (RecursionError, ValueError) as error:
        project.miss()
        yield Fault(file, 1, "", f"this is no YAML that can be read ({error}): mend it")


def _syntax_fault(file: str, error: yaml.MarkedYAMLError) -> Fault:
    line = error.problem_mark.line + 1 if error.problem_mark else 1
    return Fault(file, line, "", f"this is no YAML ({error.problem}): mend the syntax")


def _repeated(top: yaml.Node, file: str) -> Iterator[Fault]:
    """Yield the keys that a mapping has twice, of which YAML would silently take the last."""
    nodes, seen = [top], {id(top)}  # an alias is the node that it names, and may be below itself
    while nodes:
        node = nodes.pop()
        pairs = node.value if isinstance(node, yaml.MappingNode) else []
        keys = [key for key, _ in pairs if isinstance(key, yaml.ScalarNode)]
        for at, key in enumerate(keys):
            if key.value in {each.value for each in keys[:at]}:
                line = key.start_mark.line + 1
                yield Fault(file, line, key.value, "the key is there twice: keep one of them")
        below = [value for _, value in pairs] + (node.value if isinstance(node, yaml.SequenceNode) else [])
        nodes += [each for each in below if id(each) not in seen]
        seen |= {id(each) for each in below}


def _add(document: _Document, project: Project) -> Iterator[Fault]:
    """Add the resource in `document` to `project`, or yield what is wrong with it."""
    content = document.content
    if not isinstance(content, dict):
        project.miss()
        yield document.fault((), "this is no mapping: write apiVersion, kind, metadata and spec")
        return
    kind: Any = content.get("kind")
    if isinstance(kind, str) and kind in specs.PROJECT_TESTS:
        try:
            project.add_test(specs.PROJECT_TESTS[kind].model_validate(content), document)
        except ValidationError as error:
            for place, sentence in specs.faults(error, kind, content):
                yield document.fault(place, sentence)
        return
    if said := specs.kind_fault(kind):
        project.miss(document)
        yield document.fault(("kind",), said)
        return
    try:
        project.add(specs.parse(kind, content), document)
    except ValidationError as error:
        project.miss(document)
        for place, sentence in specs.faults(error, kind, content):
            yield document.fault(place, sentence)
    except wheels.Unsent as error:
        project.miss(document)
        yield document.fault(error.place, error.said)


def _line(node: yaml.Node, place: Iterable[str | int]) -> int:
    """Return the line, from 1, of the deepest part along `place` that is there: of its key, if it has one."""
    line = node.start_mark.line
    for part in place:
        if isinstance(node, yaml.MappingNode):
            found = next((pair for pair in node.value if pair[0].value == str(part)), None)
        else:
            is_there = (
                isinstance(node, yaml.SequenceNode) and isinstance(part, int) and part < len(node.value)
            )
            found = (node.value[part], node.value[part]) if is_there else None
        if found is None:
            break
        line, node = found[0].start_mark.line, found[1]
    return int(line) + 1
