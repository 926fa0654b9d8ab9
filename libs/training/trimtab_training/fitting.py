"""Fits, and judges what was fitted by rows it has not seen.

Rows come in time order. The newest share is held out and judged as it would have been
lived: stretch by stretch, each by a fit to what was known before it began, so that
what has just changed is in the judgement and nothing that came later is. What is
shipped is then fitted to all rows: in a world that has just changed the newest are
the ones that matter, and the rollout judges it on live traffic before it may answer
alone.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from trimtab_core.specs import ModelSpec

from trimtab_training import balancing, encoding, families
from trimtab_training.encoding import Encoder
from trimtab_training.families import Exported, Fitted, Floats, Matrix, own
from trimtab_training.inputs import Inputs

FOLDS = 3
STRETCHES = 3
LONG_S = 10.0
"""A fit that takes so long is not made seven times over: those that judge see a part of the rows."""
_EVERY = 16
_LEAST_SEEN = 2_000
"""Rows that a fit which judges sees at least, if there are so many."""


@dataclass(frozen=True, slots=True)
class Rows:
    """Labelled rows in time order: features float32 [rows, features], or with texts beside them; the others [rows]."""

    features: Matrix | Inputs
    label: Floats
    event_time_ms: NDArray[np.int64]
    weight: Floats | None = None
    """How much each counts in a fit, beside what its age makes of it."""

    def __len__(self) -> int:
        return len(self.label)

    def __getitem__(self, places: Any) -> "Rows":
        weight = None if self.weight is None else self.weight[places]
        return Rows(self.features[places], self.label[places], self.event_time_ms[places], weight)


@dataclass(frozen=True, slots=True)
class Effort:
    """How thoroughly a candidate is judged, beside the fit that ships."""

    every: int = 1
    """The fits that judge see each so-manieth row. They are worse than the one that ships then, never better."""
    stretches: int = STRETCHES

    def seen(self, rows: Rows) -> Rows:
        """Return what a fit that judges sees of `rows`: the same each time, the newest among them."""
        return rows if self.every == 1 else rows[(len(rows) - 1) % self.every :: self.every]


def effort(spec: ModelSpec, took_s: float, known: int, *, choices: int) -> Effort:
    """Return what a fit that took so long is worth to be judged by, where `known` rows are older than the held-out ones.

    Between `choices` of what to fit to, the stretches are needed to decide; else one will do.
    """
    if spec.trainer.judging == "full" or took_s < LONG_S:
        return Effort()
    least = max(_LEAST_SEEN, spec.trainer.min_rows)
    return Effort(max(1, min(_EVERY, known // least)), STRETCHES if choices > 1 else 1)


def held_out(rows: Rows, spec: ModelSpec) -> slice:
    """Return the places to judge by: the newest share."""
    return slice(round(len(rows) * (1 - spec.trainer.holdout)), len(rows))


def known(rows: Rows, place: int, spec: ModelSpec) -> slice:
    """Return the places whose labels had come when the row at `place` was asked."""
    asked_ms = rows.event_time_ms[place] - spec.label.within
    return slice(0, int(np.searchsorted(rows.event_time_ms, asked_ms, side="left")))


@dataclass(frozen=True, slots=True)
class Encoded:
    """A family's model, of which the texts are made numbers first."""

    encoder: Encoder
    fitted: Fitted

    def predict(self, features: Inputs) -> Floats:
        """Return the predictions."""
        return self.fitted.predict(self.encoder.encode(features))

    def to_onnx(self) -> Any:
        """Return both as one graph."""
        return self.encoder.before(self.fitted.to_onnx())


def fit(spec: ModelSpec, rows: Rows) -> Exported:
    """Return a fitted model of the kind that `spec` names.

    Raises:
        RunFailed: the spec's parameters are none of its family's, or there is nothing to learn from.
    """
    features, by_age = rows.features, weights(spec, rows)
    if spec.trainer.kind == "own":
        return own.fit(spec, features, rows.label, by_age)
    encoder = encoding.fit(spec, features) if isinstance(features, Inputs) else None
    matrix = encoder.encode(features) if encoder is not None and isinstance(features, Inputs) else features
    assert not isinstance(matrix, Inputs)
    by_class = balancing.by_class(spec, rows.label, by_age)
    if by_class is None:
        fitted = families.of(spec)(spec, matrix, rows.label, by_age)
    else:
        by_row = balancing.by_row(by_class, rows.label, by_age)
        fitted = families.of(spec)(spec, matrix, rows.label, by_row).unweighted(by_class)
    return fitted if encoder is None else Encoded(encoder, fitted)


Fit = Callable[[ModelSpec, Rows], Exported]


def timed(fit: Fit, spec: ModelSpec, rows: Rows) -> tuple[Exported, float]:
    """Return what was fitted, and the seconds of CPU that it took."""
    began = time.process_time()
    return fit(spec, rows), time.process_time() - began


def weights(spec: ModelSpec, rows: Rows) -> Floats | None:
    """Return how much each row counts in a fit, 1 on average; None if all count the same."""
    found = rows.weight
    if spec.trainer.half_life is not None:
        age = (rows.event_time_ms[-1] - rows.event_time_ms) / spec.trainer.half_life
        found = np.exp2(-age) if found is None else np.exp2(-age) * found
    return None if found is None else found / found.mean()
