"""The data card of a source: what is promised of its data, what came of that, and who leans on it.

A card is a page for people; `described` has the same for programs.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from trimtab_core.durations import format_duration
from trimtab_core.limits import Limit
from trimtab_core.specs import FieldSpec, Source, to_document
from trimtab_runtime.clock import iso

from trimtab.datasets import Events
from trimtab.metrics import Day
from trimtab.pages import Block, Bullets, Heading, Items, Links, Page, Row, Table, Text

_DAYS = 31
"""Days whose quality is shown one by one, the newest."""


@dataclass(frozen=True, slots=True)
class Card:
    """All that is known of a source."""

    source: Source
    applied: Sequence[Row]
    """Each generation of its contract, newest first: generation, at, by."""
    majors: Sequence[str]
    """Its major versions that are applied, this one included."""
    archive: Events
    """How much is archived; of no rows."""
    days: Sequence[Day]
    letters: Mapping[str, int]
    """Dead letters by what has become of them."""
    views: Sequence[Row]
    models: Sequence[Row]

    def described(self) -> dict[str, Any]:
        """Return what it says as plain data."""
        return {
            "source": to_document(self.source),
            "applied": list(self.applied),
            "major_versions": list(self.majors),
            "archive": self._archived(),
            "quality": [day.described() for day in self.days],
            "dead_letters": dict(self.letters),
            "views": list(self.views),
            "models": list(self.models),
        }

    def markdown(self, profiles: Mapping[str, str]) -> str:
        """Return the card; `profiles` are links to pages by the day, or range, that they are of."""
        return self.page(profiles).markdown()

    def page(self, profiles: Mapping[str, str]) -> Page:
        """Return the card as a page."""
        said = self.source.metadata
        blocks: list[Block] = [
            Text(
                said.description
                or "Nobody has described this source yet: say what it is in `metadata.description`."
            ),
            Text(f"Owner: {said.owner or 'nobody is named in `metadata.owner`'}"),
            Heading("Contract"),
            Items(self._contract()),
            Table([_field(name, field) for name, field in self.source.spec.shown.items()]),
            Heading("Versions"),
            Text(f"Major versions that are applied: {', '.join(self.majors)}."),
            Table(self.applied),
            Heading("Archive"),
            Items(self._archived()),
            Heading("Quality"),
            *self._quality(),
            Heading("Dead letters"),
            Table([self.letters] if self.letters else [], empty="None is kept."),
            Heading("Who leans on it"),
            Table(self.views, empty="No view is made of it."),
            Table(self.models, empty="No model leans on it."),
        ]
        if profiles:
            blocks += [Heading("Profiles"), Links(dict(sorted(profiles.items(), reverse=True)))]
        return Page(self.source.name, blocks)

    def _contract(self) -> dict[str, Any]:
        spec = self.source.spec
        return {
            "key": spec.key,
            "event time": spec.event_time,
            "lateness": f"{format_duration(spec.lateness)}; what comes later is refused",
            "fields that are not declared": spec.unknown_fields,
            "rules": "; ".join(spec.rules),
            "partitions": spec.partitions,
        }

    def _archived(self) -> dict[str, Any]:
        found = self.archive
        times = {"first": found.first_ms, "last": found.last_ms, "whole up to": found.watermark_ms}
        return {
            "rows": found.total,
            **{what: None if at_ms is None else iso(at_ms) for what, at_ms in times.items()},
            "version of the table": found.version,
        }

    def _quality(self) -> Iterator[Block]:
        if not self.days:
            yield Text("Nothing has been told of it, or not within the time that metrics are kept.")
            return
        yield Table([day.row() for day in [*reversed(self.days[-_DAYS:]), _together(self.days)]])
        if len(self.days) > _DAYS:
            yield Text(f"{len(self.days) - _DAYS} earlier days are in the total alone.")
        yield Bullets([f"{day.day}: {said}" for day in self.days[-_DAYS:] for said in day.failed])


def _together(days: Sequence[Day]) -> Day:
    """Return what several days come to."""
    whole = Day("total")
    for day in days:
        whole.rows, whole.refused = whole.rows + day.rows, whole.refused + day.refused
        whole.duplicates += day.duplicates
        whole.expectations += day.expectations
        whole.reasons += day.reasons
        whole.cleaned += day.cleaned
        whole.failed += day.failed
    return whole


def _field(name: str, field: FieldSpec) -> Row:
    return {
        "field": name,
        "type": field.type,
        "unit": field.unit,
        "null": "allowed" if field.nullable else "",
        "values": "; ".join(_held(field)),
        "cleaning": "; ".join(_cleaned(field)),
        "expected": ", ".join(f"{what} {limit}" for what, limit in field.expect.limits.items()),
    }


def _held(field: FieldSpec) -> Iterator[str]:
    """Yield what each value of a field must be."""
    if field.min is not None or field.max is not None:
        yield str(Limit(field.min, field.max))
    if field.enum is not None:
        yield f"one of {', '.join(map(str, field.enum))}"
    if field.pattern is not None:
        yield f"like {field.pattern}"
    if field.timezone is not None:
        yield f"written in {field.timezone}"
    if field.unique_within is not None:
        yield f"once within {format_duration(field.unique_within)}"


def _cleaned(field: FieldSpec) -> Iterator[str]:
    """Yield what is done to a value before it is judged, in order."""
    if field.trim:
        yield "trimmed"
    if field.nulls:
        yield f"{', '.join(map(str, field.nulls))} become null"
    if field.default is not None:
        yield f"null becomes {field.default}"
    if field.sent_in is not None:
        yield f"converted from {field.sent_in}"
