"""From a schema's text to what reads its records: the one way in, whatever the format.

A decoder is good for ever, as the schema of an id never changes; to make one takes up
to tenths of a second, and of Protobuf another process.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

from trimtab_formats.avro import compile_avro
from trimtab_formats.protobuf import compile_framed, compile_message
from trimtab_formats.protoc import compile_files

FormatName = Literal["avro", "protobuf"]


class Decoder(Protocol):
    """Reads the records of one schema."""

    @property
    def names(self) -> frozenset[str] | None:
        """The fields that its rows may have; None where each record says which message it is."""
        ...

    def decode(self, body: bytes) -> bytes:
        """Return the JSON row that a record is, NaN and infinities as null.

        Raises:
            Malformed: the bytes are no record of the schema.
        """
        ...


@dataclass(frozen=True, slots=True)
class Reference:
    """A schema that another one needs: by its full name (Avro), or the path that it is imported by (Protobuf)."""

    name: str
    text: str


def compile_schema(
    format: FormatName, text: str, references: Sequence[Reference] = (), *, message: str | None = None
) -> Decoder:
    """Return what reads the records of a schema; without a `message`, those of Protobuf say which they are.

    `references` are all that are needed, and come before what needs them.

    Raises:
        BadSchema: no record can be read by it.
        OSError: the compiler could not be run.
    """
    if format == "avro":
        return compile_avro([each.text for each in references], text)
    file = compile_files({each.name: each.text for each in references}, text)
    return compile_framed(file) if message is None else compile_message(file, message)
