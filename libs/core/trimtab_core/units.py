"""Units of measure, and how a number goes from one to another of the same dimension.

The table is exact: each unit is a fraction of its dimension's base unit, so a
conversion is rounded once, and there and back again is what was sent.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction
from typing import Final

_ZERO_C = Fraction("273.15")
_RANKINE = Fraction(5, 9)
_INCH, _POUND, _GALLON = Fraction("0.0254"), Fraction("0.45359237"), Fraction("3.785411784")
_CALORIE = Fraction("4.184")

DIMENSIONS: Final[Mapping[str, Mapping[str, Fraction | tuple[Fraction, Fraction]]]] = {
    "length": {
        "m": Fraction(1), "mm": Fraction(1, 1000), "cm": Fraction(1, 100), "km": Fraction(1000),
        "in": _INCH, "ft": 12 * _INCH, "yd": 36 * _INCH, "mi": 63360 * _INCH, "nmi": Fraction(1852),
    },
    "mass": {
        "kg": Fraction(1), "mg": Fraction(1, 10**6), "g": Fraction(1, 1000), "t": Fraction(1000),
        "oz": _POUND / 16, "lb": _POUND,
    },
    "time": {
        "s": Fraction(1), "us": Fraction(1, 10**6), "ms": Fraction(1, 1000), "min": Fraction(60),
        "h": Fraction(3600), "d": Fraction(86400),
    },
    "speed": {
        "m/s": Fraction(1), "km/h": Fraction(1000, 3600), "mph": 63360 * _INCH / 3600, "ft/s": 12 * _INCH,
        "kn": Fraction(1852, 3600),
    },
    "temperature": {
        "K": Fraction(1), "degC": (Fraction(1), _ZERO_C), "degF": (_RANKINE, _ZERO_C - 32 * _RANKINE),
    },
    "pressure": {
        "Pa": Fraction(1), "hPa": Fraction(100), "kPa": Fraction(1000), "mbar": Fraction(100), "bar": Fraction(10**5),
        "atm": Fraction(101325), "psi": _POUND * Fraction("9.80665") / _INCH**2, "mmHg": Fraction("133.322387415"),
    },
    "volume": {
        "l": Fraction(1), "ml": Fraction(1, 1000), "cl": Fraction(1, 100), "m3": Fraction(1000), "gal": _GALLON,
        "ft3": (120 * _INCH) ** 3, "floz": _GALLON / 128,
    },
    "energy": {
        "J": Fraction(1), "kJ": Fraction(1000), "MJ": Fraction(10**6), "Wh": Fraction(3600), "kWh": Fraction(3600 * 1000),
        "cal": _CALORIE, "kcal": 1000 * _CALORIE,
    },
    "angle": {"deg": Fraction(1), "rad": 180 / Fraction(math.pi), "turn": Fraction(360)},
}  # fmt: skip
"""By dimension: what one of a unit is in the base unit, and for a scale with a zero of its own, where that lies."""


@dataclass(frozen=True, slots=True)
class Conversion:
    """What makes a number of one unit a number of another: `value * scale + shift`."""

    scale: float
    shift: float

    def of(self, value: float) -> float:
        """Return `value` in the other unit.

        Raises:
            OverflowError: it is an integer that no float holds.
        """
        return value * self.scale + self.shift


def dimension(unit: str) -> str | None:
    """Return what a unit measures; None if it is not in the table."""
    return next((name for name, units in DIMENSIONS.items() if unit in units), None)


def conversion(sent_in: str, unit: str) -> Conversion:
    """Return what makes numbers of `sent_in` numbers of `unit`.

    Raises:
        ValueError: there is none; it names the units that could be meant.
    """
    theirs, ours = dimension(sent_in), dimension(unit)
    if ours is None:
        raise ValueError(
            f"{unit!r} is no known unit, so nothing can be turned into it: write one of "
            f"{_listed(theirs) if theirs else '; '.join(map(_listed, DIMENSIONS))}"
        )
    if theirs != ours:
        what = f"a {theirs}" if theirs else "no known unit"
        raise ValueError(f"{sent_in!r} is {what}, and {unit} a {ours}: write one of {_listed(ours)}")
    (a, b), (c, d) = _of(ours, sent_in), _of(ours, unit)
    return Conversion(float(a / c), float((b - d) / c))


def _of(dimension: str, unit: str) -> tuple[Fraction, Fraction]:
    found = DIMENSIONS[dimension][unit]
    return found if isinstance(found, tuple) else (found, Fraction(0))


def _listed(dimension: str) -> str:
    return ", ".join(DIMENSIONS[dimension])
