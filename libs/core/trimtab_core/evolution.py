"""Which changes of a source's contract, or of the columns of a view or table, break those who hold to them.

A change of a contract breaks *producers* if a row that was good would be refused, or would come to
mean something else; it breaks *readers* if an event may now be what they were promised
it never is. Everything else is compatible (`docs/decisions/0005`). A breaking change
needs a new major version, which is a source of its own beside the old one.
"""

import json
from collections.abc import Iterator, Mapping
from typing import Any, Final

from trimtab_core.conditions import same_condition
from trimtab_core.contract import compile_contract
from trimtab_core.durations import format_duration
from trimtab_core.specs import FeatureViewSpec, FieldSpec, Format, ModelSpec, Place, SourceSpec, TableSpec

_OF_ALL_COLUMNS: Final = ("source", "entity", "hop")


def breaking(before: SourceSpec, after: SourceSpec) -> list[tuple[Place, str]]:
    """Return what `after` breaks of what `before` promised: places in the spec, and a sentence for each."""
    way_out = f"set version: {before.version + 1} to run both side by side, or"
    return [(place, f"{said}: {way_out} {remedy}") for place, said, remedy in _broken(before, after)]


def differences(before: Any, after: Any, at: Place = ()) -> Iterator[tuple[Place, Any, Any]]:
    """Yield where two documents differ, and what each has there: None where it has nothing."""
    if isinstance(before, Mapping) and isinstance(after, Mapping):
        for key in dict.fromkeys([*after, *before]):
            yield from differences(before.get(key), after.get(key), (*at, key))
    elif before != after:
        yield at, before, after


_Broken = Iterator[tuple[Place, str, str]]
"""Where, what breaks whom, and what to do besides setting a version."""


def _broken(before: SourceSpec, after: SourceSpec) -> _Broken:
    for role in ("key", "event_time"):
        was, now = getattr(before, role), getattr(after, role)
        if was != now:
            said = f"{now!r} was {was!r}, which producers and readers hold to"
            yield (role,), said, f"keep {role}: {was}"
    if after.predictions_of != before.predictions_of:
        said = f"{after.predictions_of!r} was {before.predictions_of!r}: its events would mean something else"
        yield ("predictions_of",), said, "keep what it was"
    yield from _other_format(before.format, after.format)
    if after.lateness < before.lateness:
        was, now = format_duration(before.lateness), format_duration(after.lateness)
        said = f"{now!r} is shorter than it was, {was}: rows that came in time would be late"
        yield ("lateness",), said, f"keep {was}"
    if after.unknown_fields == "reject" and before.unknown_fields != "reject":
        said = (
            f"'reject' was {before.unknown_fields!r}: rows with fields that are not declared would be refused"
        )
        yield ("unknown_fields",), said, f"keep {before.unknown_fields}"
    for index, rule in enumerate(after.rules):
        if not any(same_condition(rule, each) for each in before.rules):
            said = f"{rule!r} is a new rule: rows that break it were good"
            yield ("rules", index), said, "leave it out"
    for name, field in before.fields.items():
        if name not in after.fields:
            yield ("fields", name), f"{name!r} is gone, and readers may use it", "keep it"
        else:
            for place, said, remedy in _broken_field(name, field, after.fields[name], before):
                yield ("fields", name, *place), said, remedy
    for name, field in after.fields.items():
        if name not in before.fields and not _takes_null(field):
            said = f"{name!r} is a new field that no row may lack: producers do not send it yet"
            yield ("fields", name), said, "make it nullable, or give it a default"


def _other_format(before: Format, after: Format) -> _Broken:
    """Yield what makes records unreadable, or read as what they are not.

    A Protobuf schema may be another, for its language says how it grows, and old records are read by the new one.
    """
    if after.type != before.type:
        said = f"{after.type!r} was {before.type!r}, in which producers send it"
        yield ("format", "type"), said, f"keep {before.type}"
    elif after.is_framed != before.is_framed:
        said = "it says the schema itself" if before.is_framed else "it has no schema any more"
        was = "records begin with the id of theirs" if before.is_framed else "records do not begin with an id"
        yield ("format",), f"{said}, and {was}", "keep it"
    elif after.type == "avro" and _json(after.text) != _json(before.text):
        said = "it is another, and a record is read by the very schema it was written with"
        yield ("format", "schema"), said, "keep it"
    elif after.message != before.message:
        yield ("format", "message"), f"{after.message!r} was {before.message!r}", "keep it"


def _json(text: str | None) -> Any:
    """Return what a text holds, white space aside; itself, if it is no JSON."""
    try:
        return json.loads(text or "")
    except ValueError:
        return text


def _broken_field(name: str, before: FieldSpec, after: FieldSpec, source: SourceSpec) -> _Broken:
    if after.type != before.type:
        yield (
            ("type",),
            f"{after.type!r} was {before.type!r}, which producers send and readers read",
            "keep it",
        )
        return
    yield from _other_meaning(before, after)
    yield from _other_nulls(name, before, after, source)
    yield from _narrower(before, after)


def _other_meaning(before: FieldSpec, after: FieldSpec) -> _Broken:
    """Yield what makes the same value mean something else."""
    if before.unit != after.unit and (before.unit is not None or after.sent_in is not None):
        yield (
            ("unit",),
            f"{after.unit!r} was {before.unit!r}, in which readers take it",
            f"keep {before.unit!r}",
        )
    was, now = before.sent_in or before.unit, after.sent_in or after.unit
    if was != now and was is not None:
        yield ("sent_in",), f"{now!r} was {was!r}, in which producers send it", f"keep sent_in: {was}"
    zones = before.timezone or "UTC", after.timezone or "UTC"
    if zones[0] != zones[1]:
        said = (
            f"{zones[1]!r} was {zones[0]!r}, in which producers write it: the same text would be another time"
        )
        yield ("timezone",), said, f"keep {zones[0]}"


def _other_nulls(name: str, before: FieldSpec, after: FieldSpec, source: SourceSpec) -> _Broken:
    """Yield what makes a value null, a null a value, or either refused."""
    if _takes_null(before) and not _takes_null(after):
        key = "default" if before.default is not None and not before.nullable else "nullable"
        said = f"{getattr(after, key)!r} was {getattr(before, key)!r}: rows without a value were good"
        yield (key,), said, "keep it, or give it a default"
    if _gives_null(after) and not _gives_null(before):
        key = "nullable" if after.nullable and not before.nullable else "default"
        said = f"{getattr(after, key)!r} was {getattr(before, key)!r}: readers were promised a value in every row"
        yield (key,), said, "give it a default"
    if before.trim and not after.trim:
        yield ("trim",), "False was True: texts would come with their white space", "keep it"
    if after.trim and not before.trim and not _takes_null(after):
        said = "True was False: a blank text would be null, which is refused"
        yield ("trim",), said, "give the field a default"
    if gone := [value for value in before.nulls if value not in after.nulls]:
        said = f"{gone[0]!r} meant null, and would be a value or be refused"
        yield ("nulls",), said, "keep it among them"
    contract = compile_contract(source)
    for index, value in enumerate(after.nulls):
        was_good = value not in before.nulls and not contract.check_fields({name: value}, {name})
        if was_good and not _takes_null(after):
            said = f"{value!r} was a value, and would be null, which is refused"
            yield ("nulls", index), said, "give the field a default"


def _narrower(before: FieldSpec, after: FieldSpec) -> _Broken:
    """Yield what refuses values that were good."""
    if after.min is not None and (before.min is None or after.min > before.min):
        was = "no lower bound" if before.min is None else f"{before.min:g}"
        yield ("min",), f"{after.min:g} was {was}: values below it were good", f"keep {was}"
    if after.max is not None and (before.max is None or after.max < before.max):
        was = "no upper bound" if before.max is None else f"{before.max:g}"
        yield ("max",), f"{after.max:g} was {was}: values above it were good", f"keep {was}"
    if after.enum is not None:
        if before.enum is None:
            yield ("enum",), f"{list(after.enum)} was any value", "leave it out"
        elif gone := [value for value in before.enum if value not in after.enum]:
            said = f"{list(after.enum)} was {list(before.enum)}: {gone[0]!r} was good"
            yield ("enum",), said, "keep it among them"
    if after.pattern is not None and after.pattern != before.pattern:
        was = "any text" if before.pattern is None else repr(before.pattern)
        yield (
            ("pattern",),
            f"{after.pattern!r} was {was}: texts that do not match it were good",
            f"keep {was}",
        )


def _takes_null(field: FieldSpec) -> bool:
    """Return whether a row without a value is good."""
    return field.nullable or field.default is not None


def _gives_null(field: FieldSpec) -> bool:
    """Return whether an event may have no value."""
    return field.nullable and field.default is None


def changed_columns(before: FeatureViewSpec, after: FeatureViewSpec) -> dict[str, str]:
    """Return the columns of a view that `after` has no longer, or with another meaning, and what has changed."""
    for name in _OF_ALL_COLUMNS:
        was, now = getattr(before, name), getattr(after, name)
        if was != now:
            shown = (before.model_dump(mode="json")[name], after.model_dump(mode="json")[name])
            return dict.fromkeys(before.columns(), f"its {name} was {shown[0]!r} and would be {shown[1]!r}")
    was, now = _meanings(before), _meanings(after)
    return {
        column: said
        for column, meaning in was.items()
        if (said := _other_column(meaning, now[column]) if column in now else "it would be gone")
    }


def _other_column(before: Mapping[str, str | None], after: Mapping[str, str | None]) -> str:
    """Return what has changed of a column's meaning; nothing if it is the same."""
    return " and ".join(
        f"its `{key}` was {was!r} and would be {now!r}"
        for key, was, now in ((key, was, after[key]) for key, was in before.items())
        if was != now
        and not (key == "where" and was is not None and now is not None and same_condition(was, now))
    )


def _meanings(view: FeatureViewSpec) -> dict[str, dict[str, str | None]]:
    """Return what each column is made of, as far as its name, which an aggregate's own may replace, does not say it."""
    meanings = [
        {"field": aggregate.field, "function": function, "where": aggregate.where}
        for aggregate in view.aggregates
        for function in aggregate.functions
        for _ in aggregate.windows
    ]
    return dict(zip(view.columns(), meanings, strict=True))


def unlike(before: TableSpec, after: TableSpec) -> list[tuple[Place, str]]:
    """Return why the history of a table cannot go on as `after`: places in the spec, and a sentence for each."""
    found: list[tuple[Place, str]] = []
    if before.key != after.key:
        said = f"{after.key!r} was {before.key!r}, by which the table's history is kept"
        found.append((("key",), f"{said}: keep it, or apply a table of another name"))
    for name, field in after.fields.items():
        if name in before.fields and field.type != before.fields[name].type:
            said = f"{field.type!r} was {before.fields[name].type!r}, which the table's history holds"
            found.append(
                (("fields", name, "type"), f"{said}: keep it, or take the column in by another name")
            )
    return found


def renumbered(before: ModelSpec, after: ModelSpec) -> list[tuple[Place, str]]:
    """Return why the classes of a model cannot become those of `after`: versions and logs know a class by its number."""
    was, now = before.label.classes, after.label.classes
    if not was or not now or before.task != after.task or now[: len(was)] == was:
        return []
    said = f"{list(now)} do not begin with {list(was)}, by whose numbers the model's versions and predictions know them"
    return [(("label", "classes"), f"{said}: add new ones at the end, or apply a model of another name")]


def lost_columns(before: TableSpec, after: TableSpec) -> dict[str, str]:
    """Return the columns of a table that `after` has no longer, or with another meaning, and what has changed."""
    found = {}
    for name in before.features:
        was, now = before.fields[name], after.fields.get(name)
        if now is None or name not in after.columns:
            found[name] = "it would be gone"
        elif was.unit is not None and was.unit != now.unit:
            found[name] = f"its unit was {was.unit!r} and would be {now.unit!r}"
    return found
