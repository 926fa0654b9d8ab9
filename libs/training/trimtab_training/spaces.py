"""Which families `kind: auto` chooses among, and what it tries of each.

The ranges are those that practice has found worth the time on tables of some thousand
to some million rows. The value that a range begins with is the family's own default, and each
family's defaults are tried first: what is found is no worse than they are. A spec's
ranges win over these.
"""

import importlib.util
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from trimtab_core.ranges import Range
from trimtab_core.specs import ModelSpec, SearchSpec

from trimtab_training import families
from trimtab_training.errors import RunFailed

Value = float | int | str | bool


@dataclass(frozen=True, slots=True)
class Tried:
    """What is tried of one parameter, and what is tried first."""

    range: Range
    first: Value


def _from(first: float | int, low: float | int, high: float | int, *, log: bool = False) -> Tried:
    return Tried(Range(low, high, log), first)


_FOREST: Final = {
    "n_estimators": _from(100, 50, 300),
    "max_depth": _from(16, 4, 32),
    "max_features": _from(0.5, 0.2, 1.0),
    "min_samples_leaf": _from(1, 1, 50, log=True),
}
_HISTOGRAM: Final = {
    "learning_rate": _from(0.1, 0.01, 0.3, log=True),
    "max_iter": _from(100, 50, 400, log=True),
    "max_leaf_nodes": _from(31, 7, 127, log=True),
    "min_samples_leaf": _from(20, 5, 200, log=True),
    "l2_regularization": _from(1e-6, 1e-6, 10.0, log=True),
}
_LIGHTGBM: Final = {
    "learning_rate": _from(0.1, 0.01, 0.3, log=True),
    "n_estimators": _from(100, 50, 400, log=True),
    "num_leaves": _from(31, 7, 127, log=True),
    "min_child_samples": _from(20, 5, 200, log=True),
    "colsample_bytree": _from(1.0, 0.4, 1.0),
    "reg_lambda": _from(1e-6, 1e-6, 10.0, log=True),
}
_XGBOOST: Final = {
    "learning_rate": _from(0.3, 0.01, 0.3, log=True),
    "n_estimators": _from(100, 50, 400, log=True),
    "max_depth": _from(6, 3, 10),
    "min_child_weight": _from(1.0, 0.5, 100.0, log=True),
    "colsample_bytree": _from(1.0, 0.4, 1.0),
    "reg_lambda": _from(1.0, 1e-3, 10.0, log=True),
}
_NETWORK: Final = {
    "learning_rate": _from(1e-3, 1e-4, 1e-2, log=True),
    "hidden": _from(64, 16, 256, log=True),
    "layers": _from(2, 1, 4),
    "dropout": _from(0.0, 0.0, 0.5),
    "weight_decay": _from(1e-4, 1e-6, 1e-1, log=True),
}


def of_family(family: str, spec: ModelSpec) -> Mapping[str, Tried]:
    """Return what to try of a family, by parameter: its own ranges with the spec's."""
    found = dict(_own(family, spec.task))
    searched: Mapping[str, Mapping[str, Range]] = (spec.trainer.search or SearchSpec()).parameters  # type: ignore[assignment]
    for name, tried in searched.get(family, {}).items():
        found[name] = Tried(tried, _nearest(tried, found[name].first if name in found else None))
    return found


def _own(family: str, task: str) -> Mapping[str, Tried]:
    match family:
        case "linear" if task == "regression":
            return {"alpha": _from(1.0, 1e-3, 1e3, log=True)}
        case "linear":
            return {"C": _from(1.0, 1e-3, 1e3, log=True)}
        case "random_forest":
            return _FOREST
        case "hist_gradient_boosting":
            return _HISTOGRAM
        case "lightgbm":
            return _LIGHTGBM
        case "xgboost":
            return _XGBOOST
        case "neural_network":
            return _NETWORK
    return {}


def _nearest(range: Range, first: Value | None) -> Value:
    """Return the value of a range that is nearest to a family's default; its first or lowest, if there is none."""
    if range.choices:
        return first if first is not None and first in range.choices else range.choices[0]
    if not isinstance(first, int | float):
        return range.low
    nearest = min(max(first, range.low), range.high)
    return round(nearest) if range.whole else nearest


def chosen_among(search: SearchSpec) -> tuple[str, ...]:
    """Return the families to search: those that the spec names, or all, and of them those that are here.

    Raises:
        RunFailed: none of them is.
    """
    wanted: tuple[str, ...] = search.families or (
        "hist_gradient_boosting",
        "linear",
        "random_forest",
        *families.NEEDS,
    )
    here = tuple(family for family in wanted if _installed(family))
    if not here:
        raise RunFailed(
            f"trainer.search.families names {', '.join(wanted)}, and this trainer has none of them: "
            f"install one, or name others, such as {', '.join(families.HOMES)}"
        )
    return here


def _installed(family: str) -> bool:
    needed = families.NEEDS.get(family)
    return family in families.HOMES and (needed is None or importlib.util.find_spec(needed) is not None)
