"""Boosted trees by LightGBM: fast on many rows, missing values as they come.

The trees are read from the model's text, in which every number has all its digits.
"""

from collections.abc import Iterator
from functools import partial
from typing import Any

import lightgbm
import numpy as np
from trimtab_core.specs import ModelSpec

from trimtab_training.families import Floats, Matrix, trees
from trimtab_training.families.margins import Margins, Part, centre, outputs
from trimtab_training.families.parameters import Allowed, Number, OneOf, Whole, checked, refused

_SHARE = Number(over=0, high=1)
_TREES: dict[str, Allowed] = {
    "n_estimators": Whole(1, 100_000),
    "learning_rate": _SHARE,
    "num_leaves": Whole(2, 131_072),
    "max_depth": Whole(-1),
    "min_child_samples": Whole(0),
    "min_child_weight": Number(),
    "min_split_gain": Number(),
    "subsample": _SHARE,
    "subsample_freq": Whole(0),
    "colsample_bytree": _SHARE,
    "reg_alpha": Number(),
    "reg_lambda": Number(),
    "max_bin": Whole(2, 65_535),
}
_REGRESSION: dict[str, Allowed] = {
    "objective": OneOf(("regression", "regression_l1", "huber", "fair", "quantile")),
    "alpha": Number(over=0),
}
_DEFAULT_LEFT, _MISSING_IS_NAN = 2, 8


def fit(spec: ModelSpec, features: Matrix, labels: Floats, weights: Floats | None) -> Margins:
    """Fit boosted trees; the same rows, weights and seed give the same trees."""
    given = checked(spec, _TREES | (_REGRESSION if spec.task == "regression" else {}))
    rounds, middle = given.pop("n_estimators", 100), centre(spec, labels)
    if "subsample" in given:
        # LightGBM draws rows at every `subsample_freq`-th tree, and never by itself.
        given.setdefault("subsample_freq", 1)
    rows = lightgbm.Dataset(features, labels - middle, weight=weights, params={"verbosity": -1})
    try:
        booster = lightgbm.train(_ours(spec) | given, rows, num_boost_round=rounds, callbacks=[_tell])
    except lightgbm.basic.LightGBMError as error:
        raise refused(spec, error) from error
    width = outputs(spec)
    of = (booster, width)
    return Margins(
        spec.task, features.shape[1], partial(_said, *of), partial(_part, *of), np.full(width, middle)
    )


def _said(booster: Any, width: int, asked: Matrix) -> Floats:
    margins = booster.predict(asked, raw_score=True, num_threads=1)
    return np.asarray(margins, np.float64).reshape(len(asked), width)


def _part(booster: Any, width: int) -> Part:
    return trees.part(list(_trees(booster, width)), outputs=width, less="BRANCH_LEQ")


def _ours(spec: ModelSpec) -> dict[str, Any]:
    """Return what the spec does not say by parameters; a seed gives the same trees with these alone."""
    common = {
        "seed": spec.trainer.seed,
        "deterministic": True,
        "force_row_wise": True,
        "num_threads": 1,
        "verbosity": -1,
    }
    match spec.task:
        case "regression":
            # What is judged by the absolute error is fitted to it: one monster label bends no tree then.
            return common | {"objective": "regression_l1" if spec.judged_by == "mae" else "regression"}
        case "binary":
            return common | {"objective": "binary"}
        case "multiclass":
            return common | {"objective": "multiclass", "num_class": len(spec.label.classes)}


def _tell(at: Any) -> None:
    print(f"[{at.iteration + 1}/{at.end_iteration}]")


def _trees(booster: Any, width: int) -> Iterator[trees.Tree]:
    """Yield the trees as LightGBM's text has them: splits first, and leaves as the complements of their places."""
    text = booster.model_to_string(num_iteration=-1)
    for number, block in enumerate(text.split("\nTree=")[1:]):
        said = dict(line.split("=", 1) for line in block.split("\n\n")[0].splitlines() if "=" in line)
        leaves = _numbers(said["leaf_value"])
        feature, kind = (
            _numbers(said.get(name, "")).astype(np.int64) for name in ("split_feature", "decision_type")
        )
        threshold, splits = _numbers(said.get("threshold", "")), len(feature)
        none, ends = np.full(len(leaves), -1), np.zeros(len(leaves), np.int64)
        left, right = (
            np.concatenate([np.where(child < 0, splits + ~child, child), none])
            for child in (
                _numbers(said.get(name, "")).astype(np.int64) for name in ("left_child", "right_child")
            )
        )
        # Where a fit saw no missing value, one that comes later counts as 0.
        missing_left = np.where(kind & _MISSING_IS_NAN, (kind & _DEFAULT_LEFT) > 0, threshold >= 0)
        yield trees.Tree(
            number % width,
            np.concatenate([feature, ends]),
            np.concatenate([threshold, leaves]),
            left,
            right,
            np.concatenate([missing_left, ends > 0]),
        )


def _numbers(text: str) -> Floats:
    return np.array(text.split(), np.float64)
