"""What ingestion refuses at its gRPC door, and why a table cannot be loaded; a bad row is a dead letter where it fits a record.

Rejected
├── RowTooLarge, NotOneARow, IdTooLong, NoArrival   a request to Ingest
├── BadConnections, BadRegistryAddress              a setting
└── TableUnfit                                      what is read is no table of its spec
Unavailable
└── TableAway                                       it cannot be read now
"""

from trimtab_contracts.topics import MOST_ROW_BYTES
from trimtab_runtime.errors import Rejected, Unavailable
from trimtab_runtime.records import MOST_ID_BYTES


class RowTooLarge(Rejected):
    """A row is more than a record may hold; no row of its request was taken."""

    def __init__(self, place: int, size: int) -> None:
        super().__init__(
            f"rows[{place}] has {size} bytes and a row may have {MOST_ROW_BYTES}: "
            "send a reference to what is large, and not the thing itself"
        )


class NotOneARow(Rejected):
    """A list that goes along with the rows is shorter or longer than they are; no row of its request was taken."""

    def __init__(self, name: str, found: int, rows: int) -> None:
        super().__init__(f"{name} has {found} entries for {rows} rows: send one for each row, or none at all")


class IdTooLong(Rejected):
    """A row's id is more than a header should hold; no row of its request was taken."""

    def __init__(self, place: int, size: int) -> None:
        super().__init__(
            f"ids[{place}] has {size} bytes and an id may have {MOST_ID_BYTES}: send a shorter one"
        )


class NoArrival(Rejected):
    """A stated arrival is no time; no row of its request was taken."""

    def __init__(self, place: int, value: int) -> None:
        super().__init__(
            f"arrived_at_ms[{place}] is {value} and no time of the years 1 to 9999: send milliseconds since the epoch"
        )


class BadRegistryAddress(Rejected):
    """What is named as the schema registry is no address; it may hold a password, so it is not shown."""

    def __init__(self) -> None:
        super().__init__(
            "TRIMTAB_INGESTION_SCHEMA_REGISTRY_URL is no address: write http:// or https://, and the host and path of the "
            "registry's Confluent API"
        )


class BadConnections(Rejected):
    """The setting that names the servers of tables cannot be read; it does not say what was in it."""

    def __init__(self, place: int) -> None:
        super().__init__(
            f"TRIMTAB_INGESTION_CONNECTIONS has no name=postgresql://... at place {place}: write that, with spaces between several"
        )


class TableUnfit(Rejected):
    """What is read is no table as its spec says; nothing of it was taken."""


class TableAway(Unavailable):
    """A table cannot be read now."""
