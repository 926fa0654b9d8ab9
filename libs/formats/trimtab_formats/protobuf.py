"""Protobuf records, by the descriptors of the schema they were written with.

A field that knows whether it was set, and was not, is missing from the row; any other
has its value, which may be the default. Names are those of the .proto file.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Final

from google.protobuf import json_format
from google.protobuf.descriptor import Descriptor, EnumDescriptor, FieldDescriptor
from google.protobuf.message import DecodeError, Message
from google.protobuf.message_factory import GetMessageClass

from trimtab_formats.confluent import read_path
from trimtab_formats.errors import BadSchema, Malformed
from trimtab_formats.protoc import ProtoFile
from trimtab_formats.rows import below, distinct, to_json

Convert = Callable[[Any], Any]
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def _instant(value: Any) -> datetime:
    return _EPOCH + timedelta(seconds=value.seconds, microseconds=value.nanos // 1000)


_PLAIN: Final[dict[str, Convert]] = {
    "google.protobuf.Timestamp": _instant,
    "google.protobuf.Duration": lambda value: value.seconds + value.nanos / 1e9,
    **{f"google.protobuf.{name}": json_format.MessageToDict for name in ("Struct", "Value", "ListValue")},
    **{
        f"google.protobuf.{name}Value": lambda wrapped: wrapped.value
        for name in ("Double", "Float", "Int64", "UInt64", "Int32", "UInt32", "Bool", "String", "Bytes")
    },
}
"""Messages that stand for one value."""


@dataclass(frozen=True, slots=True)
class _Field:
    """How one field of a message comes into a row."""

    attribute: str
    name: str
    """In the row."""
    may_be_unset: bool
    convert: Convert | None
    within: "tuple[_Field, ...]" = ()
    """The fields of a message that gives them to the row."""


@dataclass(frozen=True, slots=True)
class MessageDecoder:
    """Reads the records of one message."""

    names: frozenset[str]
    kind: type[Message]
    fields: tuple[_Field, ...]

    def decode(self, body: bytes) -> bytes:
        """Return the JSON row that a record is."""
        try:
            return to_json(_put(self.kind.FromString(body), self.fields, {}))
        except (DecodeError, json_format.Error, OverflowError, RecursionError, ValueError) as error:
            raise Malformed(str(error) or type(error).__name__) from error


class FramedDecoder:
    """Reads records of any message of a file: each says which."""

    names = None

    def __init__(self, file: ProtoFile) -> None:
        self._file = file
        self._decoders: dict[tuple[int, ...], MessageDecoder] = {}

    def decode(self, body: bytes) -> bytes:
        """Return the JSON row that a record is."""
        path, record = read_path(body)
        if (found := self._decoders.get(path)) is None:
            try:
                found = self._decoders[path] = compile_message(self._file, self._name(path))
            except BadSchema as error:
                raise Malformed(f"of its message, {error}") from error
        return found.decode(record)

    def _name(self, path: tuple[int, ...]) -> str:
        """Return the full name of the message at a path.

        Most clients count the entries of maps, which the compiler makes messages of, and some do not. No record is an
        entry, so where one is named, or nothing, it was the other count.
        """
        messages, names = self._file.proto.message_type, [self._file.proto.package]
        for index in path:
            declared = [each for each in messages if not each.options.map_entry]
            found = next(
                (
                    counted[index]
                    for counted in (messages, declared)
                    if 0 <= index < len(counted) and not counted[index].options.map_entry
                ),
                None,
            )
            if found is None:
                raise Malformed(f"the schema has no message at {list(path)}")
            names.append(found.name)
            messages = found.nested_type
        return ".".join(filter(None, names))


def compile_framed(file: ProtoFile) -> FramedDecoder:
    """Return what reads records that say which message of `file` they are."""
    return FramedDecoder(file)


def compile_message(file: ProtoFile, name: str) -> MessageDecoder:
    """Return what reads the records of the message called `name`.

    Raises:
        BadSchema: there is no such message, or its rows would have two fields of one name.
    """
    try:
        descriptor = file.pool.FindMessageTypeByName(name)
    except KeyError as error:
        raise BadSchema(f"it has no message {name!r}") from error
    fields = _fields(descriptor, "", frozenset(), flat=True)
    return MessageDecoder(distinct(_names(fields)), GetMessageClass(descriptor), fields)


def _put(message: Any, fields: tuple[_Field, ...], row: dict[str, Any]) -> dict[str, Any]:
    for field in fields:
        if field.may_be_unset and not message.HasField(field.attribute):
            continue
        value = getattr(message, field.attribute)
        if field.within:
            _put(value, field.within, row)
        else:
            row[field.name] = value if field.convert is None else field.convert(value)
    return row


def _names(fields: tuple[_Field, ...]) -> Iterator[str]:
    for field in fields:
        if field.within:
            yield from _names(field.within)
        else:
            yield field.name


def _fields(descriptor: Descriptor, prefix: str, within: frozenset[str], *, flat: bool) -> tuple[_Field, ...]:
    """Return how a message's fields come into a row, or into an object that lies in it."""
    within = within | {descriptor.full_name}
    found = []
    for each in descriptor.fields:
        name, inner = prefix + each.name, each.message_type
        fields: tuple[_Field, ...] = ()
        if flat and inner is not None and not each.is_repeated and _has_fields(inner, within):
            fields = _fields(inner, below(name), within, flat=True)
        found.append(_Field(each.name, name, each.has_presence, _of_field(each), fields))
    return tuple(found)


def _has_fields(inner: Descriptor, within: frozenset[str]) -> bool:
    return inner.full_name not in _PLAIN and inner.full_name not in within and len(inner.fields) > 0


def _of_field(field: FieldDescriptor) -> Convert | None:
    """Return what makes JSON of a field's value; None where nothing has to."""
    if field.message_type is not None and field.message_type.GetOptions().map_entry:
        key, value = (field.message_type.fields_by_name[part] for part in ("key", "value"))
        of_value, is_bool = _of_value(value), key.type == FieldDescriptor.TYPE_BOOL
        return lambda entries: {
            ("true" if each else "false") if is_bool else each: entries[each]
            if of_value is None
            else of_value(entries[each])
            for each in entries
        }
    of_item = _of_value(field)
    if field.is_repeated:
        return list if of_item is None else lambda items: [of_item(item) for item in items]
    return of_item


def _of_value(field: FieldDescriptor) -> Convert | None:
    if field.message_type is not None:
        return _PLAIN.get(field.message_type.full_name) or _to_object(field.message_type)
    return _to_name(field.enum_type) if field.enum_type is not None else None


def _to_name(enum: EnumDescriptor) -> Convert:
    """Return what makes a number the name of an enum's value; one that has no name stays a number."""
    names = {number: value.name for number, value in enum.values_by_number.items()}
    return lambda number: names.get(number, number)


def _to_object(descriptor: Descriptor) -> Convert:
    """Return what makes a message an object; its fields are looked at when the first one comes, as it may hold itself."""
    fields: list[tuple[_Field, ...]] = []

    def convert(message: Any) -> dict[str, Any]:
        if not fields:
            fields.append(_fields(descriptor, "", frozenset(), flat=False))
        return _put(message, fields[0], {})

    return convert
