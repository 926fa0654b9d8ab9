"""What a person would look at first in some events of a source: every field's numbers, and Evidently's page of them.

The numbers need nothing but Arrow. Evidently, of the extra `trimtab[report]`, is
imported when a page is made, and not before.
"""

import importlib.util
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from html import escape
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray
from trimtab_core.specs import FieldSpec, Source
from trimtab_core.timestamps import zone
from trimtab_runtime.clock import iso
from trimtab_runtime.errors import Rejected

from trimtab.datasets import Events, frame
from trimtab.metrics import Day

MOST_KINDS = 50
"""Different values of a text that a chart can tell apart; one with more, such as an id, has none."""
_COMMON = 5
_STYLE = """
.trimtab {font: 14px/1.5 system-ui, sans-serif; margin: 24px auto 0; max-width: 1220px; padding: 0 24px}
.trimtab h1 {font-size: 24px} .trimtab h2 {font-size: 17px; margin-top: 28px}
.trimtab table {border-collapse: collapse; width: 100%} .trimtab td, .trimtab th {border-bottom: 1px solid #8884;
padding: 4px 10px 4px 0; text-align: left; vertical-align: top}
.trimtab li {color: #b00020}
"""


@dataclass(frozen=True, slots=True)
class Profile:
    """The numbers of some events, and how they were judged on their way in."""

    _source: Source
    called: str
    """The day, or the range, as a title says it."""
    total: int
    """Events of that time; `rows` of them were looked at."""
    rows: int
    version: int | None
    """Of the source's table."""
    fields: tuple[dict[str, Any], ...]
    days: tuple[Day, ...]
    """How good the rows were, day by day."""
    _table: pa.Table = field(repr=False)

    def numbers(self) -> dict[str, Any]:
        """Return all that it says as plain data."""
        return {
            "source": self._source.name,
            "of": self.called,
            "events": self.total,
            "profiled": self.rows,
            "table_version": self.version,
            "fields": list(self.fields),
            "quality": [day.described() for day in self.days],
        }

    def write(self, path: Path) -> None:
        """Write a page that stands by itself to `path`, and its numbers beside it as JSON.

        Raises:
            Rejected: Evidently is not installed, or a file cannot be written.
        """
        made = _evidently(self)
        page = made.get_html_str(as_iframe=False).replace("<body>", f"<body>{self._head()}", 1)
        numbers = self.numbers() | {"evidently": json.loads(made.json())}
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(page, encoding="utf-8")
            path.with_suffix(".json").write_text(json.dumps(numbers, indent=2), encoding="utf-8")
        except OSError as error:
            raise Rejected(f"{path} cannot be written ({error}): name another folder") from error

    def _head(self) -> str:
        """Return what Evidently does not know, as HTML."""
        all_of_them = (
            f"all {self.total}" if self.rows == self.total else f"a sample of {self.rows} of {self.total}"
        )
        title = escape(f"{self._source.name}, {self.called}")
        parts = [
            f"<title>{title}</title><style>{_STYLE}</style>",
            f"<h1>{title}</h1>",
            f"<p>{all_of_them} archived events, of version {self.version} of the table.</p>",
            "<h2>On their way in</h2>",
            _html([day.row() for day in self.days])
            or "<p>Nothing is told any more of how these rows were judged.</p>",
            *(f"<ul><li>{escape(said)}</li></ul>" for day in self.days for said in day.failed),
            "<h2>Fields</h2>",
            _html(self.fields),
        ]
        return f'<div class="trimtab">{"".join(parts)}</div>'


def profile(source: Source, events: Events, *, called: str, days: Sequence[Day] = ()) -> Profile:
    """Return the profile of some events, with what is known of how good the rows of their time were."""
    table = events.arrow()
    fields = tuple(_field(name, spec, table[name]) for name, spec in source.spec.shown.items())
    return Profile(source, called, events.total, events.rows, events.version, fields, tuple(days), table)


def needs_evidently() -> None:
    """Make sure that pages can be made.

    Raises:
        Rejected: Evidently is not installed.
    """
    if importlib.util.find_spec("evidently") is None:
        raise Rejected(
            "Evidently, which draws the profile, is not installed: `pip install 'trimtab[report]'`, or write --card "
            "for the data card alone"
        )


def _field(name: str, spec: FieldSpec, column: pa.ChunkedArray) -> dict[str, Any]:
    """Return what there is to say of a field in one row of a table."""
    known = column.drop_null()
    said: dict[str, Any] = {
        "field": name,
        "type": spec.type,
        "unit": spec.unit,
        "nulls": column.null_count / len(column) if len(column) else None,
        "distinct": len(known.unique()),
        **dict.fromkeys(("min", "mean", "std", "p5", "p50", "p95", "max", "common")),
    }
    if not len(known):
        return said
    if spec.type in ("integer", "number"):
        values = _numbers(known)
        low, middle, high = np.quantile(values, [0.05, 0.5, 0.95]).tolist()
        said |= {"min": values.min().item(), "mean": values.mean().item(), "std": values.std().item()}
        return said | {"p5": low, "p50": middle, "p95": high, "max": values.max().item()}
    if spec.type == "timestamp":
        ends = pc.min_max(known.cast(pa.int64())).as_py()
        return said | {"min": iso(ends["min"]), "max": iso(ends["max"])}
    counts = sorted(known.value_counts().to_pylist(), key=lambda each: (-each["counts"], str(each["values"])))
    common = {str(each["values"]): each["counts"] for each in counts[:_COMMON] if each["counts"] > 1}
    return said | {"common": ", ".join(f"{value} {count}" for value, count in common.items()) or None}


def _evidently(made: Profile) -> Any:
    """Return Evidently's summary of those fields of which a chart says something; of a time, its hour."""
    needs_evidently()
    from trimtab_runtime.reports import report

    numbers, kinds = {}, {}
    for said in made.fields:
        name, column = said["field"], made._table[said["field"]]
        if column.null_count == len(column):
            continue
        if said["type"] in ("integer", "number"):
            numbers[name] = _numbers(column)
        elif said["type"] == "timestamp":
            numbers[f"hour({name})"] = _hours(column, made._source.spec.fields[name].timezone)
        elif said["distinct"] <= MOST_KINDS:
            # A category that is null leaves Evidently's chart empty.
            kinds[name] = pc.fill_null(column.cast(pa.string()), "(null)")
    columns = pa.table({**kinds, **numbers})
    return report(
        ["DataSummaryPreset"],
        frame(columns),
        numerical_columns=list(numbers),
        categorical_columns=list(kinds),
    )


def _numbers(column: pa.ChunkedArray) -> NDArray[np.float64]:
    return np.asarray(column.cast(pa.float64(), safe=False).to_numpy(), np.float64)


def _hours(column: pa.ChunkedArray, timezone: str | None) -> NDArray[np.float64]:
    """Return the hours that the clocks of a zone showed; NaN where there is no time."""
    hours = zone(timezone).calendar("hour", pc.fill_null(column.cast(pa.int64()), 0).to_numpy())
    return np.where(column.is_null().to_numpy(), np.nan, hours)


def _html(rows: Sequence[dict[str, Any]]) -> str:
    """Return rows as an HTML table, without columns in which there is nothing; nothing for no rows."""
    names = [name for name in (rows[0] if rows else ()) if any(row[name] not in (None, "") for row in rows)]
    head = "".join(f"<th>{escape(name)}</th>" for name in names)
    body = "".join(
        f"<tr>{''.join(f'<td>{escape(_text(name, row[name]))}</td>' for name in names)}</tr>" for row in rows
    )
    return f"<table><tr>{head}</tr>{body}</table>" if names else ""


def _text(name: str, value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, float):
        return f"{value:.1%}" if name == "nulls" else f"{value:.5g}"
    return str(value)
