"""Why a version answers as it does: how much of a prediction each of its features is answerable for.

Asked on the side: an explanation is no prediction, so none is logged, and what it costs
is bounded before it begins. Of a multiclass task it is the probability of the most
probable class that is explained.
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

Words = NDArray[np.object_]


class Reason(NamedTuple):
    """A row, explained."""

    features: Sequence[float]
    """As they were used."""
    texts: Sequence[str]
    shares: Shares
    """Of the features, and then of the texts."""
    class_name: str = ""


class Explained(NamedTuple):
    """The rows of a request, explained."""

    version: Version
    reasons: list[Reason]
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
        seen = len(chosen.background[0])
        if not seen:
            raise NotExplained(model, chosen.number)
        _bound(model, len(rows), len(chosen.inputs), samples)
        asked = served.reader.read(rows, chosen.inputs)
        features, words = served.reader.inputs(asked, chosen.inputs)
        texts = np.empty((len(features), 0), object) if words is None else words
        orders = shapley.orders(len(chosen.inputs), seen, samples)
        reasons = [_reason(chosen, *row, orders) for row in zip(features, texts, strict=True)]
        return Explained(chosen, reasons, served.reader.features_until_ms())


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


def _reason(version: Version, features: NDArray[np.float32], texts: Words, asked: shapley.Orders) -> Reason:
    said = np.concatenate(
        [
            _answers(version, features, texts, asked, slice(at, at + _AT_ONCE))
            for at in range(0, len(asked.own), _AT_ONCE)
        ]
    ).astype(np.float64)
    if not version.classes:
        return Reason(features.tolist(), texts.tolist(), shapley.shares(asked, said))
    # The last of an order is the row itself.
    at = int(said[len(version.inputs)].argmax())
    shares = shapley.shares(asked, np.ascontiguousarray(said[:, at]))
    return Reason(features.tolist(), texts.tolist(), shares, version.classes[at])


def _answers(
    version: Version, features: NDArray[np.float32], texts: Words, asked: shapley.Orders, part: slice
) -> NDArray[np.float32]:
    own, places, width = asked.own[part], asked.background[part], len(version.features)
    theirs = [each[places] for each in version.background]
    numbers = np.where(own[:, :width], features, theirs[0])
    return version.run(numbers, np.where(own[:, width:], texts, theirs[1]) if version.texts else None)
