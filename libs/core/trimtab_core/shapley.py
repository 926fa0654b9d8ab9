"""How much of a prediction each feature is answerable for, whatever the model.

Shapley values by sampling: features are put in a random order, and one after the other
is changed from a background row's value to that of the row which is explained; what the
prediction moves by is that feature's share in this order. The shares of one order add
up to the whole difference, and so do their means.

Sources: E. Štrumbelj and I. Kononenko, "Explaining prediction models and individual
predictions with feature contributions" (2014); each order is followed by its reverse,
which cancels much of the noise: R. Mitchell et al., "Sampling permutations for Shapley
value estimation" (2022).
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Orders:
    """What a model has to be asked: rows made of the explained row's values where `own` says so, else of a background row's."""

    own: NDArray[np.bool_]
    """[rows, features]."""
    background: NDArray[np.intp]
    """Which background row it is [rows]."""
    _orders: NDArray[np.intp]
    """The features, as each order takes them [orders, features]; an order and its reverse follow each other."""


@dataclass(frozen=True, slots=True)
class Shares:
    """An explained prediction: `base` and the sum of `contributions` make it up."""

    prediction: float
    base: float
    """The mean prediction of the background rows that were drawn."""
    contributions: Floats
    """[features], in the unit of the prediction."""
    standard_errors: Floats
    """Of the contributions, by sampling alone [features]."""


def orders(features: int, backgrounds: int, pairs: int, *, seed: int = 0) -> Orders:
    """Draw `pairs` of orders of the features, each with a background row; all background rows come equally often.

    Raises:
        ValueError: there is no feature or no background row, or `pairs` is below 2, which give no standard error.
    """
    if features < 1 or backgrounds < 1 or pairs < 2:
        raise ValueError(
            f"{features} features, {backgrounds} background rows and {pairs} pairs explain nothing"
        )
    rng = np.random.default_rng(seed)
    drawn = rng.permuted(np.tile(np.arange(features), (pairs, 1)), axis=1)
    both = np.stack([drawn, drawn[:, ::-1]], axis=1).reshape(2 * pairs, features)
    rounds = -(-pairs // backgrounds)
    places = np.concatenate([rng.permutation(backgrounds) for _ in range(rounds)])[:pairs]
    turn = np.argsort(both, axis=1)
    own = turn[:, None, :] < np.arange(features + 1)[None, :, None]
    return Orders(own.reshape(-1, features), np.repeat(places, 2 * (features + 1)), both)


def shares(asked: Orders, predictions: Floats) -> Shares:
    """Return what the features are answerable for, by the predictions [rows] of what `asked` describes."""
    count, features = asked._orders.shape
    said = np.asarray(predictions, np.float64).reshape(count, features + 1)
    moved = np.empty((count, features))
    np.put_along_axis(moved, asked._orders, np.diff(said, axis=1), axis=1)
    of_pairs = moved.reshape(count // 2, 2, features).mean(axis=1)
    return Shares(
        prediction=float(said[0, -1]),
        base=float(said[:, 0].mean()),
        contributions=of_pairs.mean(axis=0),
        standard_errors=of_pairs.std(axis=0, ddof=1) / np.sqrt(len(of_pairs)),
    )
