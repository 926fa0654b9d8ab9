"""Streams of which it is known whether and when they change: features without and with a shift, and models' mistakes.

All are drawn from a generator that is passed in, so that a run says the same again.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.stats import norm
from trimtab_core.drift import Kind

Floats = NDArray[np.float64]
Columns = dict[str, NDArray[Any]]
Stream = Callable[[np.random.Generator, int, int], tuple[Columns, dict[str, Kind]]]
"""Draws so many rows of so many features, and says what kind each is."""
Losing = Callable[[np.random.Generator, int, bool], Floats]
"""Draws the losses of so many rows, before or after a change."""

ROWS_A_DAY = 200
_POOL = 2_000
_WORST = 4.0


def gaussian(rng: np.random.Generator, rows: int, features: int) -> tuple[Columns, dict[str, Kind]]:
    return _columns([rng.normal(size=rows) for _ in range(features)], "numeric")


def heavy_tailed(rng: np.random.Generator, rows: int, features: int) -> tuple[Columns, dict[str, Kind]]:
    """Student's t of 1.2 degrees of freedom: it has a mean and no variance."""
    return _columns([rng.standard_t(1.2, rows) for _ in range(features)], "numeric")


def categorical(rng: np.random.Generator, rows: int, features: int) -> tuple[Columns, dict[str, Kind]]:
    """Thirty categories, of which a few are common and most are rare."""
    shares = 1 / np.arange(1, 31) ** 1.2
    drawn = rng.choice(30, (features, rows), p=shares / shares.sum())
    return _columns([column.astype(np.float64) for column in drawn], "categorical")


def many_categories(rng: np.random.Generator, rows: int, features: int) -> tuple[Columns, dict[str, Kind]]:
    """Seven hundred categories, of which half are rarer than one row in 2,500."""
    shares = 1 / np.arange(1, 701)
    drawn = rng.choice(700, (features, rows), p=shares / shares.sum())
    return _columns([column.astype(np.float64) for column in drawn], "categorical")


def mixed(rng: np.random.Generator, rows: int, features: int) -> tuple[Columns, dict[str, Kind]]:
    """In equal parts: Gaussian, heavy-tailed, categories, and counts of which a tenth is missing."""
    counts, _ = gaussian(rng, rows, features - 3 * (features // 4))
    sparse = {name: np.where(rng.random(rows) < 0.1, np.nan, np.exp(x).round()) for name, x in counts.items()}
    draws: tuple[Stream, ...] = (gaussian, heavy_tailed, categorical)
    drawn = [draw(rng, rows, features // 4) for draw in draws]
    numeric: Kind = "numeric"
    parts = [*drawn, (sparse, dict.fromkeys(sparse, numeric))]
    columns = [column for part, _ in parts for column in part.values()]
    kinds = [kind for _, of in parts for kind in of.values()]
    return _columns(columns)[0], {f"x{at}": kind for at, kind in enumerate(kinds)}


def weekly(rng: np.random.Generator, rows: int, features: int) -> tuple[Columns, dict[str, Kind]]:
    """Gaussian, of which half differ at weekends by half a sigma."""
    columns, kinds = gaussian(rng, rows, features)
    weekend = 0.5 * (np.arange(rows) // ROWS_A_DAY % 7 >= 5)
    return {name: x + weekend if at % 2 else x for at, (name, x) in enumerate(columns.items())}, kinds


def times(rows: int) -> Floats:
    """Return the times of rows, in milliseconds: so many a day as the weekly stream has."""
    return np.arange(rows, dtype=np.float64) * (86_400_000.0 / ROWS_A_DAY)


def shifted(by: float, columns: Columns) -> Columns:
    """Return the columns, of which the fourth has moved."""
    return columns | {"x3": columns["x3"] + by}


def correlated(by: float, columns: Columns) -> Columns:
    """Return the columns, of which the fourth has become correlated with the third; each of them is distributed as before."""
    one, other = columns["x2"], columns["x3"]
    return columns | {"x3": by * one + np.sqrt(1 - by**2) * other}


def waved(share: float, columns: Columns) -> Columns:
    """Return the columns, of which the fourth is a sine of the third in such a share of the rows; each is distributed as before."""
    one, other = columns["x2"], columns["x3"]
    wave = np.arcsin(np.sin(6 * one)) / np.pi + 0.5
    tied = norm.ppf(wave.clip(1e-6, 1 - 1e-6))
    return columns | {"x3": np.where(_first(share, other), tied, other)}


def signed(share: float, columns: Columns) -> Columns:
    """Return the columns, of which the fourth has the sign of the second's and third's product in such a share of the rows."""
    other = columns["x3"]
    tied = np.abs(other) * np.sign(columns["x1"] * columns["x2"])
    return columns | {"x3": np.where(_first(share, other), tied, other)}


def _first(share: float, column: NDArray[Any]) -> NDArray[np.bool_]:
    return np.asarray(np.arange(len(column)) < share * len(column))


def subject(rng: np.random.Generator, share: float, columns: Columns) -> Columns:
    """Return the columns, of whose first, a text, such a share has half of its words from a subject: rare ones, and as many new ones."""
    about = np.array([*(f"w{at}" for at in range(100, 115)), *(f"s{at}" for at in range(15))])

    def told(text: str) -> str:
        words = text.split()
        return " ".join([*words[: len(words) // 2], *rng.choice(about, len(words) - len(words) // 2)])

    said = columns["x0"]
    moved = [told(text) if of else text for text, of in zip(said, _first(share, said), strict=True)]
    return columns | {"x0": np.array(moved, object)}


def texts(rng: np.random.Generator, rows: int, features: int) -> tuple[Columns, dict[str, Kind]]:
    """One feature in five is a text of one to twelve words of three hundred, the others are Gaussian."""
    columns, kinds = gaussian(rng, rows, features)
    shares = 1 / np.arange(1, 301)
    words = np.array([f"w{at}" for at in range(300)])
    said = [" ".join(rng.choice(words, size, p=shares / shares.sum())) for size in rng.integers(1, 13, _POOL)]
    pool = np.array(said, object)
    for at in range(0, features, 5):
        columns[f"x{at}"], kinds[f"x{at}"] = pool[rng.integers(0, _POOL, rows)], "text"
    return columns, kinds


STREAMS: dict[str, Stream] = {
    "gaussian": gaussian,
    "heavy-tailed": heavy_tailed,
    "categorical": categorical,
    "of many categories": many_categories,
    "mixed": mixed,
    "weekly": weekly,
    "weekly, held against its season": weekly,
    "texts": texts,
    "mixed, by a classifier too": mixed,
    "predictions, heavy-tailed": heavy_tailed,
    "predictions, of classes": categorical,
}


def mistakes(rng: np.random.Generator, rows: int) -> Floats:
    """Return the losses of a model that errs in one row of 20."""
    return (rng.random(rows) < 0.05).astype(np.float64)


def lognormal(rng: np.random.Generator, rows: int) -> Floats:
    """Return losses clipped at about their 99th percentile."""
    return np.minimum(rng.lognormal(0, 1, rows), 10.0)


def student(rng: np.random.Generator, rows: int) -> Floats:
    """Return losses of Student's t, which has no variance, clipped far out."""
    return np.minimum(np.abs(rng.standard_t(1.5, rows)), 60.0)


def absolute_errors(rise: float, rng: np.random.Generator, rows: int, changed: bool) -> Floats:
    """Return absolute errors of a normal, as parts of what they are at most; a change lifts their mean by `rise` of their standard deviations."""
    wider = 1 + rise * np.sqrt(np.pi / 2 - 1) if changed else 1.0
    errors: Floats = np.minimum(np.abs(rng.normal(0, wider, rows)) / _WORST, 1)
    return errors


LOSSES: dict[str, tuple[float, Callable[[np.random.Generator, int], Floats]]] = {
    "errors of 5 %": (1.0, mistakes),
    "lognormal losses clipped at their 99th percentile": (10.0, lognormal),
    "losses of Student's t clipped far out": (60.0, student),
}
"""The most that a row's loss is, and what draws them."""


def _columns(columns: list[NDArray[Any]], kind: Kind = "numeric") -> tuple[Columns, dict[str, Kind]]:
    named = {f"x{at}": column for at, column in enumerate(columns)}
    return named, dict.fromkeys(named, kind)


def sea(rng: np.random.Generator, rows: int, changed: bool) -> tuple[Floats, Floats]:
    """Return features [rows, 3] and labels of SEA (Street and Kim 2001): a sum's threshold goes from 8 to 9.5; 10 % noise."""
    x = rng.uniform(0, 10, (rows, 3))
    return x, _noisy(rng, x[:, 0] + x[:, 1] <= (9.5 if changed else 8.0), 0.1)


def hyperplane(rng: np.random.Generator, rows: int, changed: bool) -> tuple[Floats, Floats]:
    """Return features [rows, 5] and labels of a hyperplane (Hulten, Spencer and Domingos 2001) that turns; 5 % noise."""
    x = rng.uniform(0, 1, (rows, 5))
    weights = np.array([1.0, 0.8, 0.6, 0.4, 0.2])
    if changed:
        weights = weights[[0, 1, 4, 3, 2]]
    return x, _noisy(rng, x @ weights >= weights.sum() / 2, 0.05)


def stagger(rng: np.random.Generator, rows: int, changed: bool) -> tuple[Floats, Floats]:
    """Return features [rows, 3] and labels of STAGGER (Schlimmer and Granger 1986), from its first rule to its third; 5 % noise."""
    size, shape, colour = (rng.integers(0, 3, rows) for _ in range(3))
    truth = size > 0 if changed else (size == 0) & (colour == 0)
    return np.column_stack([size, shape, colour]).astype(np.float64), _noisy(rng, truth, 0.05)


CONCEPTS: dict[str, Callable[[np.random.Generator, int, bool], tuple[Floats, Floats]]] = {
    "SEA": sea,
    "hyperplane": hyperplane,
    "STAGGER": stagger,
}


def _noisy(rng: np.random.Generator, truth: NDArray[np.bool_], share: float) -> Floats:
    flipped = rng.random(len(truth)) < share
    return (truth ^ flipped).astype(np.float64)
