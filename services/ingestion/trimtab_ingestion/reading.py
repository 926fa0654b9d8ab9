"""What the records of a batch are as JSON, whatever format their source sends them in.

All that this takes from elsewhere is had before the batch is judged, and kept: a
schema registry that is away holds back the batches that need a schema not yet seen, and
no other. A record that says it is JSON is JSON.
"""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, NamedTuple

from trimtab_contracts.topics import MOST_ROW_BYTES
from trimtab_core.contract import Reason, ReasonCode
from trimtab_core.specs import Format
from trimtab_formats import confluent
from trimtab_formats.errors import BadSchema, Malformed
from trimtab_formats.schemas import Decoder, FormatName, Reference, compile_schema
from trimtab_runtime import records
from trimtab_runtime.errors import Unavailable

from trimtab_ingestion.schemaregistry import SchemaRegistry

_SHOWN_BYTES = 60
_CALLED: Mapping[FormatName, str] = {"avro": "Avro", "protobuf": "Protobuf"}


class Read(NamedTuple):
    """A batch as JSON, and why some of it is not."""

    payloads: list[bytes]
    unreadable: Mapping[int, Reason]


Reader = Callable[[Sequence[Any]], Read]
"""Reads the raw records of a batch; whatever it needs for them it has."""


class _Refused(ValueError):
    """A record cannot be read; it says why, and what to do."""

    def __init__(self, code: ReasonCode, said: str) -> None:
        super().__init__(said)
        self.code = code


def read_json(rows: Sequence[Any]) -> Read:
    """Read records of which all are JSON."""
    payloads = [record.value or b"" for record in rows]
    large = [at for at, payload in enumerate(payloads) if len(payload) > MOST_ROW_BYTES]
    return Read(payloads, {at: _too_large(payloads[at]) for at in large})


@dataclass(frozen=True, slots=True)
class _Unknown:
    """Why there is no decoder for an id."""

    said: str


class Schemas:
    """The decoders of all schemas that this process has met; what an id names never changes."""

    def __init__(self, registry: SchemaRegistry | None = None) -> None:
        self._registry = registry
        self._by_id: dict[tuple[FormatName, int], Decoder] = {}
        self._by_format: dict[Format, Decoder] = {}

    async def reader(self, format: Format, rows: Sequence[Any]) -> Reader:
        """Return what reads the raw records `rows` of a source.

        Raises:
            Unavailable: the schema registry is away or not given, or the compiler cannot be run.
        """
        if format.type == "json":
            return read_json
        decode = (
            await self._framed(format.type, rows)
            if format.is_framed
            else await self._bare(format.type, format)
        )
        return lambda batch: _read(decode, batch)

    async def _bare(self, kind: FormatName, format: Format) -> Callable[[bytes], bytes]:
        if (decoder := self._by_format.get(format)) is None:
            try:
                decoder = await _compiled(kind, format.text or "", message=format.message)
            except BadSchema as error:  # the registry has refused such a spec, so versions differ
                raise Unavailable(
                    f"the schema in the source's format cannot be compiled here ({error}): mend the spec"
                ) from error
            self._by_format[format] = decoder

        def decode(value: bytes) -> bytes:
            try:
                return decoder.decode(value)
            except Malformed as error:
                said = f"is no {_CALLED[kind]} record of the schema in the source's format ({error})"
                remedy = "mend the producer, or the schema"
                raise _Refused(ReasonCode.MALFORMED_RECORD, f"{said}: {remedy}") from error

        return decode

    async def _framed(self, kind: FormatName, rows: Sequence[Any]) -> Callable[[bytes], bytes]:
        ids = _ids(rows)
        found = await asyncio.gather(*[self._decoder(kind, each) for each in ids])
        decoders = dict(zip(ids, found, strict=True))

        def decode(value: bytes) -> bytes:
            try:
                schema_id, body = confluent.split(value)
            except Malformed as error:
                said = f"names no schema ({error}): send it with a Confluent serializer, or if it is JSON say so by"
                raise _Refused(
                    ReasonCode.MALFORMED_RECORD, f"{said} the header content-type: application/json"
                ) from error
            decoder = decoders[schema_id]
            if isinstance(decoder, _Unknown):
                said = f"was written with schema {schema_id}, {decoder.said}"
                raise _Refused(ReasonCode.UNKNOWN_SCHEMA, said)
            try:
                return decoder.decode(body)
            except Malformed as error:
                said = f"is no {_CALLED[kind]} record of schema {schema_id} ({error}): mend the producer"
                raise _Refused(ReasonCode.MALFORMED_RECORD, said) from error

        return decode

    async def _decoder(self, kind: FormatName, id: int) -> Decoder | _Unknown:
        if (found := self._by_id.get((kind, id))) is not None:
            return found
        if self._registry is None:
            raise Unavailable(
                f"a record was written with schema {id}, and no schema registry is named: set "
                "TRIMTAB_INGESTION_SCHEMA_REGISTRY_URL, or give the schema in the source's format"
            )
        try:
            schema = await self._registry.schema(id)
            if schema is None:
                return _Unknown(
                    "which the schema registry does not know: register it there, and replay the record"
                )
            if schema.type != kind.upper():
                return _Unknown(
                    f"which is {schema.type} where the source's format is {kind}: mend the producer, or the format"
                )
            found = await _compiled(kind, schema.text, schema.references)
        except BadSchema as error:
            return _Unknown(
                f"which cannot be compiled ({error}): register one that can be, and send the record by it"
            )
        self._by_id[kind, id] = found
        return found


async def _compiled(
    kind: FormatName, text: str, references: Sequence[Reference] = (), message: str | None = None
) -> Decoder:
    try:
        return await asyncio.to_thread(compile_schema, kind, text, references, message=message)
    except OSError as error:
        raise Unavailable(f"the compiler of schemas cannot be run ({error})") from error


def _ids(rows: Sequence[Any]) -> list[int]:
    """Return the ids of the schemas that records name."""
    found = set()
    for head in {record.value[: confluent.HEAD_BYTES] for record in rows if record.value}:
        with suppress(Malformed):
            found.add(confluent.split(head)[0])
    return sorted(found)


def _read(decode: Callable[[bytes], bytes], rows: Sequence[Any]) -> Read:
    payloads, unreadable = [], {}
    for at, record in enumerate(rows):
        value = record.value or b""
        try:
            payload = value if records.is_json(record) else decode(value)
        except _Refused as error:
            payload, unreadable[at] = value, _reason(error.code, value, str(error))
        if len(payload) > MOST_ROW_BYTES and at not in unreadable:
            # It may be many times larger as JSON than as what was sent.
            payload, unreadable[at] = value, _too_large(value, len(payload))
        payloads.append(payload)
    return Read(payloads, unreadable)


def _too_large(value: bytes, size: int | None = None) -> Reason:
    """Return why a record is refused whose row has more bytes as JSON than a record can hold of it."""
    said = f"has {size or len(value)} bytes as JSON and a row may have {MOST_ROW_BYTES}"
    return _reason(ReasonCode.MALFORMED_RECORD, value, f"{said}: send a reference to what is large")


def _reason(code: ReasonCode, value: bytes, said: str) -> Reason:
    shown = f"{value[:_SHOWN_BYTES]!r}{'…' if len(value) > _SHOWN_BYTES else ''}"
    return Reason(code, "", shown, f"the record {shown} {said}")
