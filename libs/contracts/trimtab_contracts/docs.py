"""Writes `topics.md` and `asyncapi.yaml`: `python -m trimtab_contracts.docs OUT_DIR`.

Both say what `topics` and the messages say, so neither is edited by hand. For those
who change them: it needs a checkout and the tools of the workspace's `dev` group.
"""

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.descriptor_pb2 import FieldDescriptorProto

from trimtab_contracts import asyncapi, sources
from trimtab_contracts.sources import Said
from trimtab_contracts.topics import ALL, KEYED, Encoding, Topic

_ENCODINGS = {Encoding.ROW: "row (JSON)", Encoding.JSON: "JSON", Encoding.BINARY: "Protobuf"}
_DAY_MS = 86_400_000


def render() -> dict[str, str]:
    """Return what each file says, by its name."""
    said = sources.read()
    return {"topics.md": topics_page(said), "asyncapi.yaml": asyncapi.document(said)}


def topics_page(said: Mapping[str, Said]) -> str:
    """Return the catalogue as a page, and below it the fields of every message."""
    head = "topic | key | message | encoding | partitions | cleanup | kept | written by | read by | about"
    table = [f"| {head} |", "|" + "---|" * (head.count("|") + 1), *map(_row, ALL)]
    messages = asyncapi.reachable(topic.value.DESCRIPTOR for topic in ALL if topic.value)
    sections = [_section(message, said) for message in sorted(messages, key=_title)]
    return "\n\n".join([_INTRODUCTION, "\n".join(table), _MESSAGES, *sections]) + "\n"


_INTRODUCTION = """\
# Topics

Made by `python -m trimtab_contracts.docs` from `topics.py` and the messages: edit those. A name with braces is a family,
one topic for each source, view or table, with as many partitions as its spec says. Readers are *shared* (a consumer group: each
record goes to one process) or *everyone* (no group: every process reads from the start). Time stamps are the broker's
(`LogAppendTime`). [asyncapi.yaml](asyncapi.yaml) says the same to machines."""

_MESSAGES = """\
# Messages

A message is a record's value on the topics named beside it; the types are Protobuf's. In JSON a 64-bit integer is a
string, bytes are base64, a Timestamp is RFC 3339, and a field that has its type's zero value is left out."""


def _row(topic: Topic[Any]) -> str:
    cells = [
        f"`{topic.name}`",
        topic.key,
        _link(topic.value.DESCRIPTOR)
        if topic.value
        else "rows of a view"
        if topic is KEYED
        else "a user's row",
        _ENCODINGS[topic.encoding],
        "as the spec says" if topic.is_family and topic.partitions > 1 else str(topic.partitions),
        "compact" if topic.compacted else "delete",
        _kept(topic),
        ", ".join(topic.producers),
        ", ".join(f"{who} ({how.value})" for who, how in topic.readers),
        topic.about,
    ]
    return f"| {' | '.join(cells)} |"


def _kept(topic: Topic[Any]) -> str:
    if topic.compacted:
        return "the newest of each key"
    return "for ever" if topic.retention_ms is None else f"{topic.retention_ms // _DAY_MS} d"


def _section(message: Descriptor, said: Mapping[str, Said]) -> str:
    on = [f"`{topic.name}`" for topic in ALL if topic.value and topic.value.DESCRIPTOR is message]
    where = f"`{message.full_name}`" + (f" on {', '.join(on)}" if on else "")
    rows = [
        f"| `{field.name}` | {_type(field)} | {said[field.full_name].comment.replace('|', '&#124;')} |"
        for field in message.fields
    ]
    parts = [f"## {_title(message)}", f"{where}. {said[message.full_name].comment}".rstrip()]
    return "\n\n".join([*parts, "\n".join(["| field | type | |", "|---|---|---|", *rows])])


def _title(message: Descriptor) -> str:
    return message.full_name.removeprefix(f"{message.file.package}.")


def _link(message: Descriptor) -> str:
    if message.file.package == "google.protobuf":
        return message.name
    return f"[{_title(message)}](#{_title(message).replace('.', '').lower()})"


def _type(field: FieldDescriptor) -> str:
    if field.message_type and field.message_type.GetOptions().map_entry:
        key, value = field.message_type.fields
        return f"map of {_type(key)} to {_type(value)}"
    if field.message_type:
        name = _link(field.message_type)
    elif field.enum_type:
        name = ", ".join(f"`{value.name}`" for value in field.enum_type.values)
    else:
        name = (
            FieldDescriptorProto.Type.DESCRIPTOR.values_by_number[field.type]
            .name.removeprefix("TYPE_")
            .lower()
        )
    return f"list of {name}" if field.is_repeated else name


if __name__ == "__main__":
    for file, text in render().items():
        (Path(sys.argv[1]) / file).write_text(text)
