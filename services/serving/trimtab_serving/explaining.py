"""Why a version answers as it does: how much of a prediction each of its features is answerable for.

Asked on the side: an explanation is no prediction, so none is logged, and what it costs
is bounded before it begins.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from trimtab_core import shapley
from trimtab_core.shapley import Shares

from trimtab_serving.errors import BadRow, NotExplained
from trimtab_serving.snapshot import Board
from trimtab_serving.versions import Version

SAMPLES = 200
"""Pairs of orders in which features are tried, unless the request says another number."""
MOST_EVALUATIONS = 2_000_000
"""Of the model for one request: a few seconds of a small one."""
_AT_ONCE = 50_000


class Explained(NamedTuple):
    """The rows of a request, explained."""

    version: Version
    features: NDArray[np.float32]
    """As they were used [rows, features]."""
    shares: list[Shares]
    features_until_ms: int | None


class Explanations:
    """Explains the answers of all models."""

    def __init__(self, board: Board) -> None:
        self._board = board

    def explain(self, model: str, rows: Sequence[bytes], version: int = 0, samples: int = 0) -> Explained:
        """Explain what the champion, or the warm `version`, answers for rows of the model's source.

        Raises:
            UnknownModel, NoLiveVersion, VersionNotWarm, BadRow, NotExplained: what they say.
        """
        served = self._board.current.of(model)
        chosen, samples = served.pinned(version), samples or SAMPLES
        if not len(chosen.background):
            raise NotExplained(model, chosen.number)
        _bound(model, len(rows), len(chosen.features), samples)
        asked = served.reader.read(rows, chosen.features)
        features = served.reader.features(asked, chosen.features)
        orders = shapley.orders(len(chosen.features), len(chosen.background), samples)
        found = [_shares(chosen, row, orders) for row in features]
        return Explained(chosen, features, found, served.reader.features_until_ms())


def _bound(model: str, rows: int, features: int, samples: int) -> None:
    if samples < 2:
        raise BadRow(
            f"samples is {samples}, which gives no standard error: ask for 2 or more, or leave it out"
        )
    if (needed := rows * samples * 2 * (features + 1)) > MOST_EVALUATIONS:
        raise BadRow(
            f"explaining {rows} rows by {samples} samples asks model {model!r} {needed:,} times, and {MOST_EVALUATIONS:,} "
            "is the most of one request: send fewer rows, or lower samples"
        )


def _shares(version: Version, row: NDArray[np.float32], asked: shapley.Orders) -> Shares:
    said = [
        version.run(np.where(asked.own[part], row, version.background[asked.background[part]]))
        for part in (slice(at, at + _AT_ONCE) for at in range(0, len(asked.own), _AT_ONCE))
    ]
    return shapley.shares(asked, np.concatenate(said).astype(np.float64))
