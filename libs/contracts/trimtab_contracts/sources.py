"""What protos/ says in words of each message and field, which generated code leaves out.

For those who make the documents: it needs a checkout and grpcio-tools.
"""

import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

from google.protobuf.descriptor_pb2 import FileDescriptorProto, FileDescriptorSet
from grpc_tools import protoc

PROTOS = Path(__file__).parents[3] / "protos"


@dataclass(frozen=True, slots=True)
class Said:
    """One message, field or enum value as its file has it."""

    comment: str
    """On one line; empty if there is none."""
    text: str
    """Its definition, without what stands above it."""


def read(protos: Path = PROTOS) -> dict[str, Said]:
    """Return what the files below `protos` say, by full name.

    Raises:
        ValueError: protoc did not understand one of them.
    """
    names = sorted(str(path.relative_to(protos)) for path in protos.rglob("*.proto"))
    with tempfile.NamedTemporaryFile(suffix=".binpb") as out:
        include = files("grpc_tools") / "_proto"
        arguments = [
            f"-I{protos}",
            f"-I{include}",
            "--include_source_info",
            f"--descriptor_set_out={out.name}",
        ]
        if protoc.main(["protoc", *arguments, *names]) != 0:
            raise ValueError(f"protoc did not understand the files in {protos}")
        described = FileDescriptorSet.FromString(out.read())
    return dict(
        entry
        for file in described.file
        for entry in _entries(file, (protos / file.name).read_text().splitlines())
    )


def _entries(file: FileDescriptorProto, lines: Sequence[str]) -> Iterator[tuple[str, Said]]:
    for location in file.source_code_info.location:
        name = _name(file, location.path)
        if name is not None:
            first, last = location.span[0], location.span[-2] if len(location.span) == 4 else location.span[0]
            comment = " ".join(f"{location.leading_comments} {location.trailing_comments}".split())
            yield f"{file.package}.{name}", Said(comment, "\n".join(lines[first : last + 1]))


def _name(file: FileDescriptorProto, path: Sequence[int]) -> str | None:
    """Return the name within its package of what is at `path`; None for what is no declaration of its own."""
    names: list[str] = []
    at: Any = file
    for number, index in zip(path[::2], path[1::2], strict=False):
        field = at.DESCRIPTOR.fields_by_number[number]
        if field.name not in ("message_type", "nested_type", "enum_type", "field", "value"):
            return None
        at = getattr(at, field.name)[index]
        names.append(at.name)
    return ".".join(names) if names and len(path) % 2 == 0 else None
