"""Reference data that is looked up by key."""

import re
from collections.abc import Iterator, Sequence
from typing import Any

from pydantic import Field

from trimtab_core.durations import format_duration
from trimtab_core.specs.base import FieldName, Name, Place, Spec, shown_value
from trimtab_core.specs.source import KEY_TYPES, NUMERIC, FieldSpec
from trimtab_core.specs.values import Duration


class PostgresQuery(Spec):
    """Rows that a query of a PostgreSQL gives."""

    query: str = Field(min_length=1)
    """One statement that reads; it runs in a transaction that may not write."""
    connection: Name
    """What ingestion's setting `connections` calls the server: an address and a password stand in no spec."""


_ADDRESS = re.compile(r"[a-z][a-z0-9+.-]*://.+|/.+", re.DOTALL)


class TableSpec(Spec):
    """Reference data that changes slowly and is kept elsewhere: loaded whole from time to time, looked up by key."""

    parquet: str | None = None
    """The address of a file that fsspec can open, such as `s3://bucket/zones.parquet`, or an absolute path."""
    postgres: PostgresQuery | None = None
    key: FieldName
    """The field that rows are looked up by: an integer or a string, in one row at a time."""
    effective: FieldName | None = None
    """The timestamp since which a row holds; with it a key may have several rows, each since another time."""
    refresh: Duration
    """How often it is loaded."""
    fields: dict[FieldName, FieldSpec]
    """The columns that are read; others are left where they are."""

    @property
    def columns(self) -> tuple[str, ...]:
        """What is kept of a row: its fields but those that say whose it is and since when."""
        return tuple(name for name in self.fields if name not in (self.key, self.effective))

    @property
    def features(self) -> tuple[str, ...]:
        """Those of the columns that can be features: numbers and booleans."""
        return tuple(name for name in self.columns if self.fields[name].type in NUMERIC)

    def _disagreements(self) -> Iterator[tuple[Place, str]]:
        if (self.parquet is None) == (self.postgres is None):
            given = "neither is" if self.parquet is None else "both are"
            yield ("parquet",), f"{given} given of parquet and postgres: a table is read from one of them"
        if self.parquet is not None and not _ADDRESS.fullmatch(self.parquet):
            yield (
                ("parquet",),
                f"{shown_value(self.parquet)} is no address: write one like s3://bucket/zones.parquet, or an absolute path",
            )
        for role, types in (("key", KEY_TYPES), ("effective", ("timestamp",))):
            if (name := getattr(self, role)) is not None:
                yield from self._role_faults(role, name, types)
        if self.effective == self.key:
            yield ("effective",), f"{self.effective!r} is the key too: name another field"
        if not self.columns:
            yield ("fields",), f"{list(self.fields)} hold nothing to look up: declare a column more"
        for name, field in self.fields.items():
            if field.unique_within is not None:
                yield ("fields", name, "unique_within"), _of_streams(format_duration(field.unique_within))
            for statistic, limit in field.expect.limits.items():
                yield ("fields", name, "expect", statistic), _of_streams(limit.plain)

    def _role_faults(self, role: str, name: str, types: Sequence[str]) -> Iterator[tuple[Place, str]]:
        if name not in self.fields:
            yield (role,), f"{name!r} is not among the fields: declare it, or name another"
            return
        if self.fields[name].type not in types:
            yield (
                ("fields", name, "type"),
                f"{self.fields[name].type!r} is no type for the {role}: write {' or '.join(types)}",
            )
        if self.fields[name].nullable:
            yield (
                ("fields", name, "nullable"),
                f"True will not do for the {role}, which every row needs: remove it",
            )


def _of_streams(shown: Any) -> str:
    return f"{shown!r} is for streams of rows, and a table is loaded whole: remove it"
