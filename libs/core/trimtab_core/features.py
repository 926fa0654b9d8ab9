"""What a model's feature expressions mean, online and offline alike.

`view.column` is an aggregate looked up by entity, `view.*` all of a view's,
`request.field` a field of the row itself, `hour(field)`, `weekday(field)` or
`month(field)` what the clocks of the field's zone show, and `table[field].column` what a
reference table has for the field's value (`table[field].*` all of its numbers). `name =
expression` is computed from those when it is asked for (`expressions.py`). One feature is
one float64 column; what is missing is NaN.

`request.field` of a string is a category, and `text(request.field)` the words of one. These
are columns of texts beside the numbers; what is missing is the empty text.
"""

import difflib
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal

import numpy as np
from numpy.typing import NDArray

from trimtab_core.contract import entity_text
from trimtab_core.expressions import Expression
from trimtab_core.lookup import Lookup
from trimtab_core.specs import NUMERIC, FeatureViewSpec, SourceSpec, TableSpec
from trimtab_core.syntax import TextFault, one_line
from trimtab_core.timestamps import (
    NOT_A_TIME,
    CalendarFunction,
    Zone,
    parse_timestamp,
    parse_timestamps,
    zone,
)

Floats = NDArray[np.float64]
_ROUNDS_MS: Final = {"hour": 86_400_000, "weekday": 7 * 86_400_000, "month": 365 * 86_400_000}
_CALENDAR = re.compile(r"(hour|weekday|month)\s*\(\s*(\w+)\s*\)")
_EXPRESSION = re.compile(r"([A-Za-z_]\w*)\s*=(?!=)\s*(.*)")
_HEAD = r"(?<!\w)([A-Za-z][\w-]*)"
_WORDS = re.compile(r"text\s*\(\s*([^()]*?)\s*\)")
_TABLE = re.compile(r"([A-Za-z][\w-]*)\s*\[\s*(\w+)\s*\]\s*\.\s*(\w+|\*)")
MOST_CHARACTERS = 4_000
"""Of a text: what comes after is not looked at."""
_NO_TABLES: Mapping[str, Any] = {}
_NOBODY = "\x00"
"""What a table is asked for where a row has nothing: no key is that."""
_FEW = 4
"""Up to so many rows, plain numbers are quicker than columns."""


class FeatureFault(ValueError):
    """A feature expression means nothing here; it names the expression and the remedy."""


@dataclass(frozen=True, slots=True)
class ViewFeature:
    """A column of a feature view."""

    name: str
    view: str
    column: str


@dataclass(frozen=True, slots=True)
class RequestFeature:
    """A field of the row itself."""

    name: str
    field: str


@dataclass(frozen=True, slots=True)
class CalendarFeature:
    """What the clocks show at a time that the row holds."""

    name: str
    function: CalendarFunction
    field: str
    zone: Zone


@dataclass(frozen=True, slots=True)
class TableFeature:
    """A column of a reference table, in the row that a field of the row itself names."""

    name: str
    table: str
    field: str
    column: str


@dataclass(frozen=True, slots=True)
class TextFeature:
    """A string of the row itself: a category, or words of which each counts by itself."""

    name: str
    field: str
    words: bool

    def read(self, value: Any) -> str:
        """Return the text of a row's value; words in small letters, for a graph knows no alphabet."""
        text = value[:MOST_CHARACTERS] if isinstance(value, str) else ""
        return text.lower() if self.words else text


def round_of(name: str) -> int | None:
    """Return after how many milliseconds the clock that a feature reads shows the same again; None if it reads none."""
    function, bracket, _ = name.partition("(")
    return _ROUNDS_MS.get(function) if bracket else None


def are_words(name: str) -> bool:
    """Return whether a text feature of this name is words of which each counts by itself, and not a category."""
    return name.startswith("text(")


Input = ViewFeature | RequestFeature | CalendarFeature | TableFeature
"""A feature that is read from somewhere."""


@dataclass(frozen=True, slots=True)
class ExpressionFeature:
    """A feature that is computed from others, which need not be features by themselves."""

    name: str
    """The whole text, so that a version which was trained on it says what it means by itself."""
    expression: Expression
    inputs: tuple[Input, ...]
    """What the expression takes, in order."""


Feature = Input | ExpressionFeature | TextFeature


def resolve(
    features: Sequence[str],
    source: SourceSpec,
    views: Mapping[str, FeatureViewSpec],
    tables: Mapping[str, TableSpec] = _NO_TABLES,
) -> tuple[Feature, ...]:
    """Return what `features` mean for rows of `source`, in order, `view.*` spelled out.

    Raises:
        FeatureFault: an expression means nothing, or two mean the same.
    """
    found: list[Feature] = []
    for text in features:
        expression = _EXPRESSION.fullmatch(one_line(text))
        if expression is None:
            found += _resolve_one(text.strip(), source, views, tables)
        else:
            found.append(_resolve_expression(expression[1], expression[2], source, views, tables))
    names = [feature.name.partition(" = ")[0] for feature in found]
    if twice := [name for name in dict.fromkeys(names) if names.count(name) > 1]:
        raise FeatureFault(f"feature {twice[0]!r} is named twice: drop one")
    return tuple(found)


def _resolve_expression(
    name: str,
    text: str,
    source: SourceSpec,
    views: Mapping[str, FeatureViewSpec],
    tables: Mapping[str, TableSpec],
) -> ExpressionFeature:
    try:
        expression = Expression(text, views, tables)
    except TextFault as fault:
        raise FeatureFault(f"feature {name!r}: {fault}") from fault
    read: list[Input] = []
    for each in expression.inputs:
        try:
            for one in _resolve_one(each.name, source, views, tables):
                if isinstance(one, TextFeature):
                    raise FeatureFault(f"{one.name!r} is a text, and an expression takes numbers: name one")
                read.append(one)
        except FeatureFault as fault:
            place = f"at character {each.at} of {expression.text!r}"
            raise FeatureFault(f"feature {name!r}: {fault} ({place})") from fault
    return ExpressionFeature(f"{name} = {expression.text}", expression, tuple(read))


def _resolve_one(
    text: str, source: SourceSpec, views: Mapping[str, FeatureViewSpec], tables: Mapping[str, TableSpec]
) -> Sequence[Input | TextFeature]:
    if match := _WORDS.fullmatch(text):
        return [_resolve_words(text, match[1], source)]
    if match := _TABLE.fullmatch(text):
        return _resolve_table(text, match, source, tables)
    if match := _CALENDAR.fullmatch(text):
        function, field = match.groups()
        _must_be(text, field, source, ("timestamp",))
        kind: Literal["hour", "weekday", "month"] = function  # type: ignore[assignment]
        return [CalendarFeature(f"{function}({field})", kind, field, zone(source.fields[field].timezone))]
    head, dot, rest = text.partition(".")
    if not dot:
        raise FeatureFault(
            f"feature {text!r} is not understood: write view.column, view.*, request.field, hour(field), "
            "text(request.field), table[field].column or name = expression"
        )
    if head == "request":
        _must_be(text, rest, source, (*NUMERIC, "string"))
        if source.fields[rest].type == "string":
            return [TextFeature(text, rest, words=False)]
        return [RequestFeature(text, rest)]
    if head not in views:
        raise FeatureFault(
            f"feature {text!r} names view {head!r}, which is not there: {nearest(head, views)}"
        )
    view = views[head]
    for entity in view.entities:
        if entity not in source.fields:
            raise FeatureFault(
                f"feature {text!r} is told apart by {entity!r}, which is no field of the model's source: "
                "add the field, or use another view"
            )
    columns = view.columns()
    if rest == "*":
        return [ViewFeature(f"{head}.{column}", head, column) for column in columns]
    if rest not in columns:
        raise FeatureFault(
            f"feature {text!r} names column {rest!r}, which the view lacks: {nearest(rest, columns)}"
        )
    return [ViewFeature(text, head, rest)]


def _resolve_words(text: str, of: str, source: SourceSpec) -> TextFeature:
    head, dot, field = of.partition(".")
    if head != "request" or not dot:
        raise FeatureFault(f"feature {text!r} is not understood: write text(request.field)")
    _must_be(text, field, source, ("string",))
    return TextFeature(f"text({of})", field, words=True)


def _resolve_table(
    text: str, match: re.Match[str], source: SourceSpec, tables: Mapping[str, TableSpec]
) -> list[Input]:
    name, field, column = match.groups()
    if name not in tables:
        raise FeatureFault(
            f"feature {text!r} names table {name!r}, which is not there: {nearest(name, tables)}"
        )
    table = tables[name]
    of_key = ("string",) if table.fields[table.key].type == "string" else ("integer", "number")
    _must_be(text, field, source, of_key)
    if column == "*":
        if not table.features:
            raise FeatureFault(f"feature {text!r} names no column, for none is a number or boolean: drop it")
        return [_of_table(name, field, each) for each in table.features]
    if column not in table.features:
        if column not in table.columns:
            remedy = nearest(column, table.features)
            raise FeatureFault(f"feature {text!r} names column {column!r}, which the table lacks: {remedy}")
        kind = table.fields[column].type
        raise FeatureFault(
            f"feature {text!r} needs a number or boolean, and column {column!r} is a {kind}: name another column"
        )
    return [_of_table(name, field, column)]


def _of_table(table: str, field: str, column: str) -> TableFeature:
    return TableFeature(f"{table}[{field}].{column}", table, field, column)


def _must_be(text: str, field: str, source: SourceSpec, types: Sequence[str]) -> None:
    if field not in source.fields:
        raise FeatureFault(
            f"feature {text!r} names field {field!r}, which the source lacks: {nearest(field, source.fields)}"
        )
    if source.fields[field].type not in types:
        raise FeatureFault(
            f"feature {text!r} needs a field of type {' or '.join(types)}, and {field!r} is a {source.fields[field].type}: "
            "name another field"
        )


def nearest(name: str, known: Iterable[str]) -> str:
    """Return what a name that is not there may have meant, or what there is."""
    close = difflib.get_close_matches(name, list(known), n=1)
    return f"did you mean {close[0]!r}?" if close else "there are " + (", ".join(sorted(known)) or "none")


def inputs(features: Sequence[Feature]) -> tuple[Input, ...]:
    """Return the numbers that are read for `features`: those that are some themselves, in order, then what expressions take more."""
    found = {each.name: each for each in features if not isinstance(each, ExpressionFeature | TextFeature)}
    for feature in features:
        if isinstance(feature, ExpressionFeature):
            found |= {each.name: each for each in feature.inputs}
    return tuple(found.values())


def texts(features: Sequence[Feature]) -> tuple[TextFeature, ...]:
    """Return those of `features` that are texts, in order."""
    return tuple(each for each in features if isinstance(each, TextFeature))


def numbers(features: Sequence[Feature]) -> tuple[Feature, ...]:
    """Return those of `features` that are numbers, in order."""
    return tuple(each for each in features if not isinstance(each, TextFeature))


def views_named(text: str) -> set[str]:
    """Return what stands for views in the text of a feature, `request` among them, whether or not there are such."""
    return set(re.findall(_HEAD + r"\.", _without_columns(text)))


def tables_named(text: str) -> set[str]:
    """Return what stands for tables in the text of a feature, whether or not there are such."""
    return set(re.findall(_HEAD + r"\s*\[", _without_columns(text)))


def _without_columns(text: str) -> str:
    """Return a text in which a dash is a minus, after a column, or part of a name: no name stands alone in one."""
    return re.sub(r"\.\w+", ".", text)


def table_column(name: str) -> tuple[str, str] | None:
    """Return the table and the column, or `*`, that a feature of that name is; None if it is no table's."""
    match = _TABLE.fullmatch(name)
    return None if match is None else (match[1], match[3])


def names_read(text: str, views: Iterable[str], tables: Iterable[str] = ()) -> set[str]:
    """Return what the text of a feature reads, by name and where there are `views` and `tables`, whether or not it is there.

    Raises:
        FeatureFault: it is an expression that cannot be read.
    """
    expression = _EXPRESSION.fullmatch(one_line(text))
    if expression is None:
        return {text.strip()}
    try:
        return {each.name for each in Expression(expression[2], views, tables).inputs}
    except TextFault as fault:
        raise FeatureFault(f"feature {expression[1]!r}: {fault}") from fault


def required_fields(features: Sequence[Feature], views: Mapping[str, FeatureViewSpec]) -> set[str]:
    """Return the fields of a row that the features read, entities included."""
    found = {each.field for each in texts(features)}
    for each in inputs(features):
        if isinstance(each, ViewFeature):
            found |= set(views[each.view].entities)
        else:
            found.add(each.field)
    return found


class RequestEvaluator:
    """Fills the inputs that a row gives, by itself or by tables; views' stay NaN for the caller to fill, and `finish`.

    Of numbers, that is; features that are texts have `texts` of their own.
    """

    def __init__(self, features: Sequence[Feature], tables: Mapping[str, Lookup] = _NO_TABLES) -> None:
        """Compile `features`; `tables` has all that they name."""
        self._texts = texts(features)
        features = numbers(features)
        self.inputs = inputs(features)
        """The columns that `evaluate` gives and `finish` takes; the features themselves, if none is an expression."""
        self.width = len(self.inputs)
        places = {each.name: at for at, each in enumerate(self.inputs)}
        self._expressions = [
            (at, each.expression, [places[one.name] for one in each.inputs])
            for at, each in enumerate(features)
            if isinstance(each, ExpressionFeature)
        ]
        self._read = [
            (at, places[each.name])
            for at, each in enumerate(features)
            if not isinstance(each, ExpressionFeature)
        ]
        self._requests = [
            (at, each.field) for at, each in enumerate(self.inputs) if isinstance(each, RequestFeature)
        ]
        asked: dict[tuple[str, str], _Asked] = {}
        for at, each in enumerate(self.inputs):
            if isinstance(each, TableFeature):
                table = tables[each.table]
                one = asked.setdefault((each.table, each.field), _Asked(table, each.field, [], []))
                one.places.append(at)
                one.columns.append(table.columns.index(each.column))
        self._asked = list(asked.values())
        clocks: dict[tuple[str, str], _Clock] = {}
        for at, each in enumerate(self.inputs):
            if isinstance(each, CalendarFeature):
                clock = clocks.setdefault((each.field, each.zone.name), _Clock(each.field, each.zone, []))
                clock.shows.append((at, each.function))
        self._clocks = list(clocks.values())

    def finish(self, matrix: Floats) -> Floats:
        """Return float64 [rows, features] of whole inputs [rows, inputs]."""
        if not self._expressions:
            return matrix
        found = np.empty((len(matrix), len(self._read) + len(self._expressions)))
        for at, place in self._read:
            found[:, at] = matrix[:, place]
        for at, expression, places in self._expressions:
            found[:, at] = expression.evaluate([np.ascontiguousarray(matrix[:, each]) for each in places])
        return found

    def texts(self, rows: Sequence[Mapping[str, Any]]) -> NDArray[np.object_]:
        """Return the texts [rows, texts]."""
        found = np.empty((len(rows), len(self._texts)), object)
        for at, each in enumerate(self._texts):
            found[:, at] = [each.read(row.get(each.field)) for row in rows]
        return found

    def evaluate(
        self, rows: Sequence[Mapping[str, Any]], at_ms: Sequence[int] | NDArray[np.int64] = ()
    ) -> Floats:
        """Return float64 [rows, inputs]; tables are read as of `at_ms`, the rows' event times."""
        matrix = self._of_row(rows)
        for one in self._asked:
            values = [row.get(one.field) for row in rows]
            keys = [_NOBODY if value is None else entity_text(value) for value in values]
            matrix[:, one.places] = one.table.values(keys, at_ms)[:, one.columns]
        return matrix

    def _of_row(self, rows: Sequence[Mapping[str, Any]]) -> Floats:
        if len(rows) <= _FEW:
            return np.array([self._evaluate_one(row) for row in rows]).reshape(len(rows), self.width)
        matrix = np.full((len(rows), self.width), np.nan)
        for at, field in self._requests:
            matrix[:, at] = [_number(row.get(field)) for row in rows]
        for clock in self._clocks:
            times = parse_timestamps([row.get(clock.field) for row in rows], clock.zone)
            known = times != NOT_A_TIME
            for at, function in clock.shows:
                matrix[known, at] = clock.zone.calendar(function, times[known])
        return matrix

    def _evaluate_one(self, row: Mapping[str, Any]) -> list[float]:
        values = [math.nan] * self.width
        for at, field in self._requests:
            values[at] = _number(row.get(field))
        for clock in self._clocks:
            time = parse_timestamp(row.get(clock.field), clock.zone)
            if time != NOT_A_TIME:
                for at, function in clock.shows:
                    values[at] = clock.zone.calendar_at(function, time)
        return values


@dataclass(frozen=True, slots=True)
class _Clock:
    """A time that the row holds, and the columns that show something of it."""

    field: str
    zone: Zone
    shows: list[tuple[int, CalendarFunction]]


@dataclass(frozen=True, slots=True)
class _Asked:
    """A table, the field by which it is asked, and what of it goes where."""

    table: Lookup
    field: str
    places: list[int]
    columns: list[int]


def _number(value: Any) -> float:
    return math.nan if value is None else float(value)
