"""Whether the data of a window is bad, which is another thing than changed.

A value is bad if the world cannot have made it: it is missing where the producer used to send it, or outside of what the
source's contract allows. A value that is possible but new (outside of the training range, a category that was never seen)
is told, and whether it is drift is for drift to say. Levels come from the version's own reference and a stated rate of
false alarms; what an owner expects of a field goes before them. The same windows in the same order give the same faults.
"""

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Final

import numpy as np
from numpy.typing import NDArray

from trimtab_core.contract import entity_text
from trimtab_core.drift import Column, Kind, missing
from trimtab_core.features import views_named
from trimtab_core.limits import Limit
from trimtab_core.metricnames import STATISTICS, Statistic
from trimtab_core.specs import FeatureView, FieldSpec, Model, Source
from trimtab_core.timestamps import iso

BLOCKING: Final[tuple[Statistic, ...]] = ("null_share", "impossible_share")
"""What makes the data of a field that a producer sends bad; the others may be a world that has changed."""
TOLERANCE: Final = 0.02
"""Least rise of a share that may be a fault: a window of thousands of rows sees what is too little to matter."""

_BLOCKS: Final = 8
_MOST_KNOWN: Final = 10_000
"""Categories that are remembered; of a feature with more, a new one is nothing."""
_FIELD: Final = re.compile(r"(?:text\()?request\.([A-Za-z_][A-Za-z0-9_]*)\)?")
SAYS: Final[Mapping[Statistic, str]] = {
    "null_share": "missing",
    "impossible_share": "outside of what the contract allows",
    "outside_share": "outside of the training range",
    "unseen_share": "of a category that training never saw",
}

Flags = NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class Usual:
    """What is usual of one feature in a version's reference."""

    shares: Mapping[Statistic, float]
    limits: Mapping[Statistic, float]
    """The share of a window from which on it is a fault."""
    low: float | None = None
    """The least and the highest of a number that was seen."""
    high: float | None = None
    known: tuple[str, ...] | None = None
    """The kinds of a category that were seen."""


@dataclass(frozen=True, slots=True)
class Stated:
    """What is stated of one feature, and who sends it."""

    origin: str
    """In words: the source, and who answers for it."""
    sent: bool = False
    """Whether it is a field as the producer sends it, and nothing that was computed."""
    low: float | None = None
    high: float | None = None
    kinds: tuple[str, ...] | None = None
    null_share: Limit | None = None


@dataclass(frozen=True, slots=True)
class Share:
    """One share of one feature in one window."""

    feature: str
    statistic: Statistic
    value: float
    limit: float
    """From which on it is a fault, or past which if the owner has stated it."""
    over: bool
    usual: float
    stated: bool


@dataclass(frozen=True, slots=True)
class Fault:
    """A share that is over its limit, until it has been within it for a few windows in a row."""

    feature: str
    statistic: Statistic
    version: int
    since_ms: int
    """Where the first window that was over began."""
    blocks: bool
    """Whether nothing is to be trained on what comes now."""
    sentence: str
    well: int = 0
    """The newest windows in a row that were within the limit."""

    @property
    def place(self) -> str:
        """What tells it from others that stand at the same time."""
        return f"{self.feature}/{self.statistic}"


def learn(
    columns: Mapping[str, Column], kinds: Mapping[str, Kind], *, window: int, false_alarms: float,
    tolerance: float = TOLERANCE,
) -> dict[str, Usual]:  # fmt: skip
    """Learn what is usual from a version's reference, in order of time; `kinds` names the features.

    `false_alarms` is the chance that any share of any feature is over its limit in a window of `window` rows while nothing
    changes. Each share has an equal part of it. Its limit is the upper quantile of the beta-binomial of a window's count
    given the reference's, which for rows that are exchangeable is exact; rows that clump count for fewer of them.
    """
    rate = false_alarms / max(len(kinds) * len(STATISTICS), 1)
    return {name: _usual(columns[name], kind, window, rate, tolerance) for name, kind in kinds.items()}


def look(
    columns: Mapping[str, Column], usual: Mapping[str, Usual], stated: Mapping[str, Stated]
) -> Iterator[Share]:
    """Yield the shares of a window that are not nothing, or usually are not."""
    for name, of in usual.items():
        column, said = columns[name], stated.get(name, Stated(""))
        for statistic, value in _shares(column, of, said).items():
            limit, usually = of.limits[statistic], of.shares[statistic]
            over, by_owner = value >= limit, statistic == "null_share" and said.null_share is not None
            if by_owner:
                assert said.null_share is not None
                over, limit = not said.null_share.holds(value), said.null_share.high or 1.0
            if value or over or (usually and statistic == "null_share"):
                yield Share(name, statistic, value, limit, over, usually, by_owner)


def of_version(faults: Mapping[str, Fault], version: int) -> Mapping[str, Fault]:
    """Return the faults that were found of a version: those of another are over when it answers."""
    return {place: fault for place, fault in faults.items() if fault.version == version}


def step(
    held: Mapping[str, Fault], shares: Iterable[Share], stated: Mapping[str, Stated], *,
    version: int, from_ms: int, to_ms: int, rows: int, patience: int,
) -> dict[str, Fault]:  # fmt: skip
    """Return the faults that stand after a window of a version.

    One share over its limit is a fault at once, for bad data must be known before it is taken for drift; it is over when
    `patience` windows in a row were within the limit, or another version answers.
    """
    over = {f"{share.feature}/{share.statistic}": share for share in shares if share.over}
    after = {}
    for place, fault in held.items():
        if fault.version != version or (place not in over and fault.well + 1 >= patience):
            continue
        after[place] = replace(fault, well=0 if place in over else fault.well + 1)
    for place, share in over.items():
        if place not in after:
            origin = stated.get(share.feature, Stated(""))
            after[place] = Fault(
                share.feature, share.statistic, version, from_ms, origin.sent and share.statistic in BLOCKING,
                _sentence(share, origin, version, from_ms, to_ms, rows),
            )  # fmt: skip
    return after


def blocking(faults: Mapping[str, Fault]) -> str:
    """Return why nothing is to be trained now, in a sentence; nothing, if it may be."""
    said = [fault.sentence for fault in faults.values() if fault.blocks]
    more = f" And {len(said) - 1} more are faulty." if len(said) > 1 else ""
    return f"{said[0]}{more}" if said else ""


def stated_of(
    model: Model, features: Iterable[str], sources: Mapping[str, Source], views: Mapping[str, FeatureView]
) -> dict[str, Stated]:
    """Return what the specs state of a model's features, by what each is called."""
    source = sources.get(model.spec.source)
    found = {}
    for name in features:
        match = _FIELD.fullmatch(name)
        if match is not None and source is not None and match[1] in source.spec.fields:
            found[name] = _of_field(match[1], source.spec.fields[match[1]], source)
            continue
        view = next((views[each] for each in sorted(views_named(name)) if each in views), None)
        made_of = sources.get(view.spec.source) if view else source
        if made_of is not None:
            through = f"the view {view.name!r}, made of " if view else ""
            found[name] = Stated(f"{through}{_who(made_of)}")
    return found


def sources_of(model: Model, views: Mapping[str, FeatureView]) -> list[str]:
    """Return the sources that a model is made of: of its rows, of its labels, and of the views that its features name."""
    named = {view for feature in model.spec.features for view in views_named(feature)}
    through = [views[name].spec.source for name in sorted(named) if name in views]
    return list(dict.fromkeys([model.spec.source, model.spec.label.source, *through]))


def clumping(flags: Flags, window: int) -> float:
    """Return how many times further the shares of blocks of rows spread than if each row were flagged by itself.

    At least 1: the design effect of Kish (1965), of blocks as long as a window where the rows hold eight of them.
    """
    block = max(1, min(window, flags.size // _BLOCKS))
    blocks = flags.size // block
    mean = float(flags.mean()) if flags.size else 0.0
    if blocks < 2 or mean in (0.0, 1.0):
        return 1.0
    shares = flags[: blocks * block].reshape(blocks, block).mean(axis=1)
    return max(float(shares.var(ddof=1)) * block / (mean * (1 - mean)), 1.0)


def least_unusual(flagged: float, rows: int, window: int, rate: float, clumps: float = 1.0) -> float:
    """Return the least share of a window that is reached with a chance of at most `rate`; over 1 if none is so rare.

    `flagged` of the reference's `rows` were flagged. Of exchangeable rows the count in the window, given that of the
    reference, is beta-binomial with the parameters `flagged + 1` and `rows - flagged`.
    """
    size = max(round(window / clumps), 1)
    a, b = flagged / clumps + 1, max((rows - flagged) / clumps, 1e-9)
    at = np.arange(size)
    log_p = np.concatenate(
        [[0.0], np.cumsum(np.log((size - at) / (at + 1)) + np.log((a + at) / (b + size - at - 1)))]
    )
    p = np.exp(log_p - log_p.max())
    tail = np.cumsum(p[::-1])[::-1] / p.sum()
    rare = np.flatnonzero(tail <= rate)
    return (float(rare[0]) if rare.size else size + 1) / size


def _usual(column: Column, kind: Kind, window: int, rate: float, tolerance: float) -> Usual:
    gone = missing(column)
    low = high = known = None
    alone = np.zeros(len(column), bool)
    if kind == "numeric":
        values = np.asarray(column[~gone], np.float64)
        if values.size:
            low, high = float(values.min()), float(values.max())
            ends = [end for end in {low, high} if np.count_nonzero(values == end) == 1]
            alone = np.isin(np.asarray(column, np.float64), ends)
    elif kind == "categorical":
        texts = as_texts(column[~gone])
        names, counts = np.unique(texts, return_counts=True)
        known = tuple(names.tolist()) if names.size <= _MOST_KNOWN else None
        alone[~gone] = np.isin(texts, names[counts == 1])
    # A row that would be new had it not been trained on tells how often a row is (Good and Turing's estimate).
    flags: Mapping[Statistic, Flags] = {
        "null_share": gone,
        "impossible_share": np.zeros(len(column), bool),
        "outside_share" if kind == "numeric" else "unseen_share": alone,
    }
    shares = {name: float(each.mean()) for name, each in flags.items()}
    limits: dict[Statistic, float] = {}
    for name, each in flags.items():
        rare = least_unusual(float(each.sum()), len(column), window, rate, clumping(each, window))
        limits[name] = max(rare, shares[name] + tolerance)
    return Usual({**shares}, limits, low, high, known)


def _shares(column: Column, usual: Usual, stated: Stated) -> dict[Statistic, float]:
    """Return the shares of a window's rows; what is impossible is not told as new too."""
    gone = missing(column)
    here = column[~gone]
    texts = (
        None if column.dtype.kind == "f" and usual.known is None and stated.kinds is None else as_texts(here)
    )
    bad, new = np.zeros(here.size, bool), np.zeros(here.size, bool)
    if stated.kinds is not None and texts is not None:
        bad |= ~np.isin(texts, stated.kinds)
    if column.dtype.kind == "f":
        low, high = stated.low, stated.high
        bad |= (here < (-np.inf if low is None else low)) | (here > (np.inf if high is None else high))
        if usual.low is not None and usual.high is not None:
            new = (here < usual.low) | (here > usual.high)
    if usual.known is not None and texts is not None:
        new = ~np.isin(texts, usual.known)
    counts = {"null_share": gone, "impossible_share": bad}
    if usual.low is not None or usual.known is not None:
        counts["outside_share" if usual.known is None else "unseen_share"] = new & ~bad
    return {name: int(counts[name].sum()) / len(column) for name in STATISTICS if name in counts}


def as_texts(values: Column) -> NDArray[np.str_]:
    """Return categories as texts, in which 3.0 is the same as 3."""
    if values.dtype.kind == "f":
        different, number = np.unique(values, return_inverse=True)
        return np.array([entity_text(value) for value in different.tolist()], str)[number]
    # PostgreSQL keeps no NUL.
    return np.array([str(value).replace("\0", "\ufffd") for value in values.tolist()], str)


def _of_field(name: str, field: FieldSpec, source: Source) -> Stated:
    # What cleaning makes of an event it makes of a request too, so the contract's bounds are in the unit of the feature.
    return Stated(
        f"field {name!r} of {_who(source)}",
        sent=True,
        low=field.min,
        high=field.max,
        kinds=None if field.enum is None else tuple(str(kind) for kind in field.enum),
        null_share=field.expect.null_share,
    )


def _who(source: Source) -> str:
    owner = source.metadata.owner
    return f"source {source.name!r} (" + (f"owner {owner})" if owner else "which names no owner)")


def _sentence(share: Share, stated: Stated, version: int, from_ms: int, to_ms: int, rows: int) -> str:
    held = (
        f"its owner expects less than {share.limit:.2%}"
        if share.stated
        else f"{share.usual:.2%} is usual for version {version}, {share.limit:.2%} is not"
    )
    origin = f": it is {stated.origin}" if stated.origin else ""
    return (
        f"{share.feature} is {SAYS[share.statistic]} in {share.value:.1%} of {rows} predictions of {iso(from_ms)[:16]} "
        f"to {iso(to_ms)[:16]} ({held}){origin}."
    )
