"""Plots as SVG text: small, sharp in print, and with nothing to load.

A plot is marks on two axes, bars beside names, or a matrix of counts. All text is escaped, colours can be told
apart by the colour-blind (Okabe and Ito 2008), and the same marks give the same text.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from html import escape
from math import floor, isfinite, log10
from typing import Final

from trimtab_runtime.clock import iso

COLOURS: Final = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#56b4e9", "#e69f00")
_INK, _GRID = "#333", "#e4e4e4"
_WIDTH, _HEIGHT = 460, 320
_LEFT, _RIGHT, _TOP, _BOTTOM = 62, 14, 32, 44
_BAR = 22
_CELL = 46
_CHARACTER = 7.5
"""The width of one of the labels' characters, about."""

Point = tuple[float, float]
Span = tuple[float, float, float]
"""Where, from and to."""


@dataclass(frozen=True, slots=True)
class Line:
    """Points joined by a line."""

    points: Sequence[Point]
    colour: str = COLOURS[0]
    called: str = ""
    dashed: bool = False
    dots: bool = False


@dataclass(frozen=True, slots=True)
class Band:
    """An area between two lines."""

    spans: Sequence[Span]
    colour: str = COLOURS[0]


@dataclass(frozen=True, slots=True)
class Whiskers:
    """Intervals, upright."""

    spans: Sequence[Span]
    colour: str = COLOURS[0]


@dataclass(frozen=True, slots=True)
class Dots:
    """Points by themselves."""

    points: Sequence[Point]
    colour: str = COLOURS[0]
    called: str = ""
    radius: float = 2
    opacity: float = 0.45


@dataclass(frozen=True, slots=True)
class Columns:
    """A histogram: for each column where it begins and ends, and its height."""

    columns: Sequence[Span]
    colour: str = COLOURS[0]
    called: str = ""


Mark = Line | Band | Whiskers | Dots | Columns


@dataclass(frozen=True, slots=True)
class Bar:
    """A value beside a name, with what it could be off by."""

    name: str
    value: float
    low: float
    high: float
    colour: str = COLOURS[0]


@dataclass(frozen=True, slots=True)
class _Axes:
    """From values to places; `y` grows downwards in a picture."""

    x: tuple[float, float]
    y: tuple[float, float]
    left: float
    top: float
    width: float
    height: float

    def at(self, x: float, y: float) -> Point:
        across = (x - self.x[0]) / (self.x[1] - self.x[0])
        up = (y - self.y[0]) / (self.y[1] - self.y[0])
        return self.left + across * self.width, self.top + (1 - up) * self.height


def plot(
    title: str, across: str, up: str, marks: Sequence[Mark], *, x: tuple[float, float] | None = None,
    y: tuple[float, float] | None = None, in_time: bool = False,
) -> str:  # fmt: skip
    """Return marks on two axes, which hold all of them where no range is given; `in_time` has milliseconds across."""
    points = [point for mark in marks for point in _reach(mark)]
    named = [
        (mark.called, mark.colour) for mark in marks if not isinstance(mark, Band | Whiskers) and mark.called
    ]
    legend, below = _legend(named)
    axes = _Axes(
        x or _range([point[0] for point in points]),
        y or _range([point[1] for point in points]),
        _LEFT,
        _TOP + below,
        _WIDTH - _LEFT - _RIGHT,
        _HEIGHT - _TOP - _BOTTOM,
    )
    parts = [
        *_grid(axes, across, up, in_time=in_time),
        *(part for mark in marks for part in _drawn(axes, mark)),
        *legend,
    ]
    return _picture(title, _WIDTH, _HEIGHT + below, parts)


def bars(title: str, across: str, rows: Sequence[Bar], named: Sequence[tuple[str, str]] = ()) -> str:
    """Return bars beside their names, those of one name together; `named` says what colours mean."""
    names = list(dict.fromkeys(row.name for row in rows))
    left = min(max((len(name) for name in names), default=0) * _CHARACTER + 16, _WIDTH / 2)
    thick = _BAR / max((sum(row.name == name for row in rows) for name in names), default=1)
    height = len(names) * (_BAR + 6.0)
    reach = [0.0, *(end for row in rows for end in (row.low, row.high, row.value))]
    legend, below = _legend(named)
    axes = _Axes(_range(reach), (0, 1), left, _TOP + below, _WIDTH - left - _RIGHT, height)
    parts = [*legend, *_across(axes, across, in_time=False)]
    for place, name in enumerate(names):
        top = axes.top + place * (_BAR + 6.0) + 3
        parts.append(_text(left - 8, top + _BAR / 2 + 4, _short(name, left), anchor="end"))
        for at, row in enumerate(row for row in rows if row.name == name):
            zero, end = axes.at(0, 0)[0], axes.at(row.value, 0)[0]
            low, high, middle = axes.at(row.low, 0)[0], axes.at(row.high, 0)[0], top + (at + 0.5) * thick
            parts += [
                f'<rect x="{min(zero, end):.1f}" y="{middle - thick / 2:.1f}" width="{abs(end - zero):.1f}" '
                f'height="{thick - 1:.1f}" fill="{row.colour}" fill-opacity="0.75"/>',
                _path([(low, middle), (high, middle)], _INK, width=1.2),
            ]
    return _picture(title, _WIDTH, axes.top + height + _BOTTOM, parts)


def matrix(
    title: str, across: str, down: str, names: Sequence[str], counts: Sequence[Sequence[int]], colour: str = COLOURS[0]
) -> str:  # fmt: skip
    """Return counts, [rows, columns] of the same names, each shaded by its share of its row, which is written too where there is room."""
    longest = max(len(name) for name in names) * _CHARACTER + 16
    left = min(longest, _WIDTH / 3) + 20
    cell = min(_CELL, (_WIDTH - left - _RIGHT) / len(names))
    top, side = _TOP + 8.0, cell * len(names)
    parts = []
    for row, (name, numbers) in enumerate(zip(names, counts, strict=True)):
        y, whole = top + row * cell, sum(numbers)
        parts.append(_text(left - 8, y + cell / 2 + 4, _short(name, left - 20), anchor="end"))
        for column, number in enumerate(numbers):
            share, x = number / whole if whole else 0.0, left + column * cell
            parts.append(
                f'<rect x="{x:.1f}" y="{y:.1f}" width="{cell - 1:.1f}" height="{cell - 1:.1f}" fill="{colour}" '
                f'fill-opacity="{0.04 + 0.6 * share:.2f}"><title>{number:,} ({share:.1%})</title></rect>'
            )
            if cell >= _CELL / 2:
                parts.append(_text(x + cell / 2, y + cell / 2 + 4, f"{share:.0%}", anchor="middle", size=10))
    for column, name in enumerate(names):
        x, y = left + (column + 0.5) * cell, top + side + 12
        turned = f' transform="rotate(-40 {x:.1f} {y:.1f})"'
        parts.append(_text(x, y, _short(name, left - 20), anchor="end", more=turned))
    below = top + side + min(longest, left - 20) * 0.6 + 26
    parts.append(_text(left + side / 2, below, across, anchor="middle"))
    middle = top + side / 2
    parts.append(_text(14, middle, down, anchor="middle", more=f' transform="rotate(-90 14 {middle:.1f})"'))
    return _picture(title, max(_WIDTH, left + side), below + 14, parts)


def _reach(mark: Mark) -> list[Point]:
    match mark:
        case Line() | Dots():
            return list(mark.points)
        case Columns():
            return [(x, y) for low, high, top in mark.columns for x, y in ((low, 0.0), (high, top))]
        case _:
            return [(x, y) for x, low, high in mark.spans for y in (low, high)]


def _drawn(axes: _Axes, mark: Mark) -> Iterable[str]:
    match mark:
        case Line():
            places = [axes.at(*point) for point in mark.points]
            yield _path(places, mark.colour, dashed=mark.dashed)
            if mark.dots:
                yield from (_dot(place, mark.colour, 3) for place in places)
        case Dots():
            yield from (
                _dot(axes.at(*point), mark.colour, mark.radius, mark.opacity) for point in mark.points
            )
        case Band():
            below = [axes.at(x, low) for x, low, _ in mark.spans]
            above = [axes.at(x, high) for x, _, high in mark.spans]
            yield f'<path d="{_through([*below, *above[::-1]])}Z" fill="{mark.colour}" fill-opacity="0.15"/>'
        case Whiskers():
            yield from (
                _path([axes.at(x, low), axes.at(x, high)], mark.colour, width=1.2)
                for x, low, high in mark.spans
            )
        case Columns():
            for low, high, top in mark.columns:
                (left, upper), (right, lower) = axes.at(low, top), axes.at(high, 0)
                yield (
                    f'<rect x="{left:.1f}" y="{upper:.1f}" width="{max(right - left - 0.5, 0.5):.1f}" '
                    f'height="{lower - upper:.1f}" fill="{mark.colour}" fill-opacity="0.55"/>'
                )


def _grid(axes: _Axes, across: str, up: str, *, in_time: bool) -> Iterable[str]:
    yield from _across(axes, across, in_time=in_time)
    for value, said in _ticks(axes.y, 6):
        _, place = axes.at(axes.x[0], value)
        yield _path([(axes.left, place), (axes.left + axes.width, place)], _GRID, width=1)
        yield _text(axes.left - 6, place + 4, said, anchor="end")
    middle = axes.top + axes.height / 2
    yield _text(14, middle, up, anchor="middle", more=f' transform="rotate(-90 14 {middle:.1f})"')


def _across(axes: _Axes, called: str, *, in_time: bool) -> Iterable[str]:
    bottom = axes.top + axes.height
    for value, said in _days(axes.x) if in_time else _ticks(axes.x, 6):
        place, _ = axes.at(value, axes.y[0])
        yield _path([(place, axes.top), (place, bottom)], _GRID, width=1)
        yield _text(place, bottom + 16, said, anchor="middle")
    yield _text(axes.left + axes.width / 2, bottom + 35, called, anchor="middle")


def _legend(named: Sequence[tuple[str, str]]) -> tuple[list[str], int]:
    """Return what names two or more colours, in lines under the title, and how high it is."""
    if len(named) < 2:
        return [], 0
    width = max(len(called) for called, _ in named) * _CHARACTER + 28
    a_line = max(1, int((_WIDTH - 24) / width))
    parts = []
    for place, (called, colour) in enumerate(named):
        left, top = 12 + place % a_line * width, _TOP - 2 + place // a_line * 16
        parts.append(f'<rect x="{left:.1f}" y="{top:.1f}" width="11" height="11" fill="{colour}"/>')
        parts.append(_text(left + 16, top + 10, called))
    return parts, -(-len(named) // a_line) * 16 + 4


def _ticks(span: tuple[float, float], most: int) -> list[tuple[float, str]]:
    """Return round values within a span, and how they are written."""
    raw = (span[1] - span[0]) / most
    power = 10.0 ** floor(log10(raw))
    step = next(each * power for each in (1, 2, 2.5, 5, 10) if each * power >= raw * 0.999)
    first = -floor(-span[0] / step + 1e-9)
    values = [number * step for number in range(first, first + most + 2)]
    return [(value, _number(value, step)) for value in values if value <= span[1] + step * 1e-6]


def _number(value: float, step: float) -> str:
    """Return a tick's value with as many places as its step has."""
    if abs(value) >= 1e6 or step < 1e-4:
        return f"{value:.3g}"
    places = next(each for each in range(7) if abs(round(step, each) - step) < step * 1e-6)
    return f"{round(value, 9) + 0.0:,.{places}f}"


def _days(span: tuple[float, float]) -> list[tuple[float, str]]:
    """Return four times within a span, and how they are written: as days, or as hours of one day."""
    times = [span[0] + (span[1] - span[0]) * (each + 0.5) / 4 for each in range(4)]
    written = [iso(int(time)) for time in times]
    days = [each[:10] for each in written]
    return list(
        zip(times, days if len(set(days)) == 4 else [f"{e[5:10]} {e[11:16]}" for e in written], strict=True)
    )


def _range(values: Iterable[float]) -> tuple[float, float]:
    known = [value for value in values if isfinite(value)] or [0.0, 1.0]
    low, high = min(known), max(known)
    room = (high - low) * 0.04 or abs(high) * 0.1 or 1.0
    return (0.0 if low == 0 else low - room), (0.0 if high == 0 > low else high + room)


def _short(name: str, width: float) -> str:
    most = int((width - 16) / _CHARACTER)
    return name if len(name) <= most else f"{name[: most - 1]}…"


def _through(places: Sequence[Point]) -> str:
    return "M" + "L".join(f"{x:.1f} {y:.1f}" for x, y in places)


def _path(places: Sequence[Point], colour: str, *, width: float = 2, dashed: bool = False) -> str:
    more = ' stroke-dasharray="5 4"' if dashed else ""
    return f'<path d="{_through(places)}" fill="none" stroke="{colour}" stroke-width="{width}"{more}/>'


def _dot(place: Point, colour: str, radius: float, opacity: float = 1) -> str:
    return f'<circle cx="{place[0]:.1f}" cy="{place[1]:.1f}" r="{radius}" fill="{colour}" fill-opacity="{opacity}"/>'


def _text(x: float, y: float, said: str, *, anchor: str = "start", size: int = 11, more: str = "") -> str:
    return (
        f'<text x="{x:.1f}" y="{y:.1f}" font-size="{size}" fill="{_INK}" text-anchor="{anchor}"{more}>'
        f"{escape(said)}</text>"
    )


def _picture(title: str, width: float, height: float, parts: Iterable[str]) -> str:
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width:.0f} {height:.0f}" width="{width:.0f}" '
        f'height="{height:.0f}" font-family="system-ui, sans-serif" role="img"><title>{escape(title)}</title>'
        f'<rect width="100%" height="100%" fill="#fff"/>{_text(12, 18, title, size=13)}{"".join(parts)}</svg>'
    )
