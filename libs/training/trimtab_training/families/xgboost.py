"""Boosted trees by XGBoost, missing values as they come.

The trees are read from the model's JSON. `xgboost-cpu` is the same library without CUDA, under the same name.
"""

import json
from collections.abc import Iterator
from functools import partial
from typing import Any

import numpy as np
import xgboost
from trimtab_core.specs import ModelSpec

from trimtab_training.families import Floats, Matrix, trees
from trimtab_training.families.margins import Margins, Part, centre, log_odds, outputs
from trimtab_training.families.parameters import Allowed, Number, OneOf, Whole, checked, refused

_SHARE = Number(over=0, high=1)
_TREES: dict[str, Allowed] = {
    "n_estimators": Whole(1, 100_000),
    "learning_rate": _SHARE,
    "max_depth": Whole(0, 64),
    "max_leaves": Whole(0),
    "grow_policy": OneOf(("depthwise", "lossguide")),
    "min_child_weight": Number(),
    "gamma": Number(),
    "max_delta_step": Number(),
    "subsample": _SHARE,
    "colsample_bytree": _SHARE,
    "colsample_bylevel": _SHARE,
    "colsample_bynode": _SHARE,
    "reg_alpha": Number(),
    "reg_lambda": Number(),
    "max_bin": Whole(2, 65_535),
}
_REGRESSION: dict[str, Allowed] = {
    "objective": OneOf(
        ("reg:squarederror", "reg:absoluteerror", "reg:pseudohubererror", "reg:quantileerror")
    ),
    "huber_slope": Number(over=0),
    "quantile_alpha": Number(over=0, high=1),
}
_LARGEST = np.finfo(np.float32).max


def fit(spec: ModelSpec, features: Matrix, labels: Floats, weights: Floats | None) -> Margins:
    """Fit boosted trees; the same rows, weights and seed give the same trees."""
    given = checked(spec, _TREES | (_REGRESSION if spec.task == "regression" else {}))
    rounds, parameters = given.pop("n_estimators", 100), _ours(spec) | given
    if parameters["objective"] == "reg:quantileerror":
        parameters.setdefault("quantile_alpha", 0.5)
    middle, width = centre(spec, labels), outputs(spec)
    start = _start(spec, labels - middle, weights, width)
    rows = xgboost.DMatrix(_finite(features), labels - middle, weight=weights, nthread=1)
    rows.set_base_margin(np.broadcast_to(start, (len(labels), width)).astype(np.float32))
    try:
        booster = xgboost.train(parameters, rows, num_boost_round=rounds, callbacks=[_Tell(rounds)])
    except xgboost.core.XGBoostError as error:
        raise refused(spec, error) from error
    of = (booster, width)
    return Margins(spec.task, features.shape[1], partial(_said, *of), partial(_part, *of), start + middle)


def _said(booster: Any, width: int, asked: Matrix) -> Floats:
    margins = booster.predict(xgboost.DMatrix(_finite(asked), nthread=1), output_margin=True)
    return np.asarray(margins, np.float64).reshape(len(asked), width)


def _part(booster: Any, width: int) -> Part:
    return trees.part(list(_trees(booster)), outputs=width, less="BRANCH_LT")


class _Tell(xgboost.callback.TrainingCallback):
    def __init__(self, rounds: int) -> None:
        self._rounds = rounds

    def after_iteration(self, model: Any, epoch: int, evals_log: Any) -> bool:
        print(f"[{epoch + 1}/{self._rounds}]")
        return False


def _ours(spec: ModelSpec) -> dict[str, Any]:
    """Return what the spec does not say by parameters."""
    common = {
        "seed": spec.trainer.seed,
        "nthread": 1,
        "tree_method": "hist",
        "verbosity": 0,
        "base_score": 0.0,
    }
    match spec.task:
        case "regression":
            # What is judged by the absolute error is fitted to it: one monster label bends no tree then.
            loss = "reg:absoluteerror" if spec.judged_by == "mae" else "reg:squarederror"
            return common | {"objective": loss}
        case "binary":
            return common | {"objective": "binary:logistic", "base_score": 0.5}
        case "multiclass":
            return common | {"objective": "multi:softprob", "num_class": len(spec.label.classes)}


def _finite(features: Matrix) -> Matrix:
    """Return the features without infinities, which XGBoost refuses; no threshold is beyond the largest float."""
    return np.clip(features, -_LARGEST, _LARGEST)


def _start(spec: ModelSpec, labels: Floats, weights: Floats | None, width: int) -> Floats:
    """Return the margins [outputs] that the trees start from.

    XGBoost keeps a start of its own as a probability in float32, which has no digits left near 1, and infinite odds at 1.
    """
    if spec.task == "regression":
        is_mean = spec.judged_by != "mae" and "objective" not in spec.trainer.parameters
        return np.array([np.average(labels, weights=weights) if is_mean else 0.0])
    return log_odds(labels, weights, width)


def _trees(booster: Any) -> Iterator[trees.Tree]:
    boosted = json.loads(booster.save_raw("json"))["learner"]["gradient_booster"]["model"]
    for output, tree in zip(boosted["tree_info"], boosted["trees"], strict=True):
        yield trees.Tree(
            output,
            np.array(tree["split_indices"], np.int64),
            # It compares and adds float32; a double holds each as it is.
            np.array(tree["split_conditions"], np.float32).astype(np.float64),
            np.array(tree["left_children"], np.int64),
            np.array(tree["right_children"], np.int64),
            np.array(tree["default_left"], np.bool_),
        )
