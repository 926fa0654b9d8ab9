"""The plots of evidence, of one run or of several over one another on one scale.

They are drawn from the tables that are kept with a version, so a card looks the same
however much later it is made.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from trimtab.svg import (
    COLOURS,
    Band,
    Bar,
    Columns,
    Dots,
    Line,
    Mark,
    Point,
    Span,
    Whiskers,
    bars,
    matrix,
    plot,
)  # fmt: skip

Evidence = Mapping[str, Any]
MOST_FEATURES: Final = 20
_GREY: Final = "#777"


@dataclass(frozen=True, slots=True)
class Figure:
    """A picture, and what one sees in it."""

    name: str
    svg: str
    caption: str


def figures(found: Mapping[str, Evidence]) -> list[Figure]:
    """Return the plots of evidence by what it is called: each that any of it has the table for."""
    drawn = [
        _calibration,
        _calibration_by_class,
        _confusion,
        _roc,
        _pr,
        _points,
        _residuals,
        _over_time,
        _importance,
        _learning,
    ]
    return [figure for draw in drawn for figure in draw(found)]


def _tables(
    found: Mapping[str, Evidence], name: str
) -> Iterator[tuple[str, str, Sequence[Mapping[str, Any]]]]:
    """Yield what is called how, its colour, and its table of a plot, if it has that."""
    for colour, (called, evidence) in zip(_colours(len(found)), found.items(), strict=True):
        if rows := evidence["curves"].get(name):
            yield called, colour, rows


def _colours(count: int) -> list[str]:
    return [COLOURS[place % len(COLOURS)] for place in range(count)]


def _pairs(rows: Sequence[Mapping[str, Any]], x: str, y: str) -> list[Point]:
    return [(row[x], row[y]) for row in rows]


def _spans(rows: Sequence[Mapping[str, Any]], x: str, low: str, high: str) -> list[Span]:
    return [(row[x], row[low], row[high]) for row in rows]


def _calibration(found: Mapping[str, Evidence]) -> Iterator[Figure]:
    marks: list[Mark] = []
    for called, colour, rows in _tables(found, "calibration"):
        marks.append(Whiskers(_spans(rows, "predicted", "low", "high"), colour))
        marks.append(Line(_pairs(rows, "predicted", "label"), colour, called, dots=True))
    if not marks:
        return
    classes = (
        " Of classes it is the probability of the one that was said, and whether it was right."
        if any(evidence["task"] == "multiclass" for evidence in found.values())
        else ""
    )
    ends = [end for mark in marks if isinstance(mark, Line) for point in mark.points for end in point]
    same = Line([(min(ends), min(ends)), (max(ends), max(ends))], _GREY, dashed=True)
    yield Figure(
        "calibration",
        plot("Calibration", "mean prediction", "mean label", [same, *marks]),
        "Ten shares of the rows by what was predicted: a model that means what it says lies on the dashed line. "
        f"The bars are 95 % intervals.{classes}",
    )


def _calibration_by_class(found: Mapping[str, Evidence]) -> Iterator[Figure]:
    for called, _, rows in _tables(found, "calibration_by_class"):
        classes = list(dict.fromkeys(row["class"] for row in rows))
        marks: list[Mark] = [Line([(0, 0), (1, 1)], _GREY, dashed=True)]
        for colour, name in zip(COLOURS, classes, strict=False):
            of_class = [row for row in rows if row["class"] == name]
            marks.append(Whiskers(_spans(of_class, "predicted", "low", "high"), colour))
            marks.append(Line(_pairs(of_class, "predicted", "label"), colour, name, dots=True))
        title, left_out = f"Calibration by class{_of(called, found)}", len(classes) - len(COLOURS)
        yield Figure(
            _named("calibration-by-class", called, found),
            plot(title, "mean probability", "share of the class", marks),
            "Each class against the rest, in ten shares of the rows by its probability."
            + (f" The {left_out} classes of fewest labels are left out." if left_out > 0 else ""),
        )


def _confusion(found: Mapping[str, Evidence]) -> Iterator[Figure]:
    for called, colour, rows in _tables(found, "confusion"):
        title, names = f"Confusion{_of(called, found)}", [row["label"] for row in rows]
        yield Figure(
            _named("confusion", called, found),
            matrix(title, "said", "label", names, [row["said"] for row in rows], colour),
            "What share of the rows of each class was said to be of which; what lies on the diagonal was right.",
        )


def _of(called: str, found: Mapping[str, Evidence]) -> str:
    """Return whose a plot is that shows one alone; nothing, if there is one alone."""
    return f", {called}" if len(found) > 1 else ""


def _named(name: str, called: str, found: Mapping[str, Evidence]) -> str:
    return f"{name}-{list(found).index(called) + 1}" if len(found) > 1 else name


def _roc(found: Mapping[str, Evidence]) -> Iterator[Figure]:
    across, up = "false positive rate", "true positive rate"
    marks: list[Mark] = [
        Line(_pairs(rows, across, up), colour, called) for called, colour, rows in _tables(found, "roc")
    ]
    if marks:
        chance = Line([(0, 0), (1, 1)], _GREY, dashed=True)
        yield Figure(
            "roc",
            plot("ROC", across, up, [chance, *marks], x=(0, 1), y=(0, 1)),
            "What share of the positives is found at which share of false alarms; the dashed line is chance.",
        )


def _pr(found: Mapping[str, Evidence]) -> Iterator[Figure]:
    marks: list[Mark] = [
        Line(_pairs(rows, "recall", "precision"), colour, called)
        for called, colour, rows in _tables(found, "pr")
    ]
    if marks:
        yield Figure(
            "precision-recall",
            plot("Precision and recall", "recall", "precision", marks, x=(0, 1), y=(0, 1)),
            "How many of those called positive are, at each share of the positives that is found.",
        )


def _points(found: Mapping[str, Evidence]) -> Iterator[Figure]:
    marks: list[Mark] = [
        Dots(_pairs(rows, "predicted", "label"), colour, called)
        for called, colour, rows in _tables(found, "points")
    ]
    if marks:
        ends = [each for mark in marks if isinstance(mark, Dots) for each, _ in mark.points]
        same = Line([(min(ends), min(ends)), (max(ends), max(ends))], _GREY, dashed=True)
        yield Figure(
            "predicted-and-actual",
            plot("Predicted and actual", "prediction", "label", [*marks, same]),
            "A sample of the rows, evenly over their time.",
        )


def _residuals(found: Mapping[str, Evidence]) -> Iterator[Figure]:
    marks: list[Mark] = [
        Columns(_spans(rows, "from", "to", "rows"), colour, called)
        for called, colour, rows in _tables(found, "residuals")
    ]
    if marks:
        yield Figure(
            "residuals",
            plot("Residuals", "label - prediction", "rows", marks),
            "How far predictions were off; the outermost half percent on either side counts in the outermost column.",
        )


def _over_time(found: Mapping[str, Evidence]) -> Iterator[Figure]:
    marks: list[Mark] = []
    for called, colour, rows in _tables(found, "over_time"):
        marks.append(Band(_spans(rows, "at_ms", "low", "high"), colour))
        marks.append(Line(_pairs(rows, "at_ms", "median"), colour, called))
    if marks:
        yield Figure(
            "residuals-over-time",
            plot("Residuals over time", "event time", "label - prediction", marks, in_time=True),
            "The median, and the span of the middle four fifths, in stretches of as many rows each.",
        )


def _importance(found: Mapping[str, Evidence]) -> Iterator[Figure]:
    rises: dict[str, float] = {}
    for evidence in found.values():
        for each in evidence["importance"]["features"]:
            rises[each["feature"]] = max(rises.get(each["feature"], each["rise"]), each["rise"])
    most = sorted(rises, key=lambda name: -rises[name])[:MOST_FEATURES]
    rows = [
        Bar(each["feature"], each["rise"], each["rise"] - each["spread"], each["rise"] + each["spread"], colour)
        for name in most
        for colour, evidence in zip(_colours(len(found)), found.values(), strict=True)
        for each in evidence["importance"]["features"]
        if each["feature"] == name
    ]  # fmt: skip
    if rows:
        named = list(zip(found, _colours(len(found)), strict=True))
        metric = " / ".join(dict.fromkeys(each["importance"]["metric"] for each in found.values()))
        left_out = (
            f" The {len(rises) - len(most)} that matter least are left out." if len(rises) > len(most) else ""
        )
        yield Figure(
            "importance",
            bars("What the model leans on", f"rise of {metric} when the feature is shuffled", rows, named),
            "How much worse the model's answers are when a feature's values are shuffled among rows that are near in time; "
            f"the lines are one standard deviation over the repeats.{left_out}",
        )  # fmt: skip


def _learning(found: Mapping[str, Evidence]) -> Iterator[Figure]:
    marks: list[Mark] = []
    for colour, (called, evidence) in zip(_colours(len(found)), found.items(), strict=True):
        if rows := evidence.get("learning"):
            if all(row["low"] is not None for row in rows):
                marks.append(Whiskers(_spans(rows, "rows", "low", "high"), colour))
            marks.append(Line(_pairs(rows, "rows", "value"), colour, called, dots=True))
    if marks:
        metric = " / ".join(dict.fromkeys(each["judged_by"] for each in found.values()))
        yield Figure(
            "learning",
            plot("Learning curve", "rows it was fitted to", metric, marks),
            "Fits to the newest eighth, quarter, half and all of the rows that are older than the held-out ones, on those. "
            "Where it still falls, more rows would help.",
        )
