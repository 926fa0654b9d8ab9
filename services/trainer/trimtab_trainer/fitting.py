"""Fits, and judges what was fitted by rows it has not seen.

Rows come in time order. The newest share is held out and judged as it would have been
lived: stretch by stretch, each by a fit to what was known before it began, so that
what has just changed is in the judgement and nothing that came later is. What is
shipped is then fitted to all rows: in a world that has just changed the newest are
the ones that matter, and the rollout judges it on live traffic before it may answer
alone.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray
from trimtab_core.specs import ModelSpec

from trimtab_trainer import encoding, families
from trimtab_trainer.encoding import Encoder
from trimtab_trainer.families import Fitted, Floats, Matrix
from trimtab_trainer.inputs import Inputs

FOLDS = 3
STRETCHES = 3
FITS = STRETCHES + FOLDS + 1
"""Of a run: those that judge, and the one that ships."""


@dataclass(frozen=True, slots=True)
class Rows:
    """Labelled rows in time order: features float32 [rows, features], or with texts beside them; the others [rows]."""

    features: Matrix | Inputs
    label: Floats
    event_time_ms: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.label)

    def __getitem__(self, places: Any) -> "Rows":
        return Rows(self.features[places], self.label[places], self.event_time_ms[places])


def held_out(rows: Rows, spec: ModelSpec) -> slice:
    """Return the places to judge by: the newest share."""
    return slice(round(len(rows) * (1 - spec.trainer.holdout)), len(rows))


def known(rows: Rows, place: int, spec: ModelSpec) -> slice:
    """Return the places whose labels had come when the row at `place` was asked."""
    asked_ms = rows.event_time_ms[place] - spec.label.within
    return slice(0, int(np.searchsorted(rows.event_time_ms, asked_ms, side="left")))


class Model(Protocol):
    """A fitted model, with what makes numbers of its texts."""

    def predict(self, features: Any) -> Floats:
        """Return predictions of features, which are as those of the rows that it was fitted to (see `families.Fitted`)."""
        ...

    def to_onnx(self) -> Any:
        """Return the `onnx.ModelProto` that answers so; it takes `texts` string [rows, texts] where there are some."""
        ...


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


def fit(spec: ModelSpec, rows: Rows) -> Model:
    """Return a fitted model of the kind that `spec` names.

    Raises:
        RunFailed: the spec's parameters are none of its family's, or there is nothing to learn from.
    """
    weights, features = _weights(rows.event_time_ms, spec.trainer.half_life), rows.features
    if not isinstance(features, Inputs):
        return families.of(spec)(spec, features, rows.label, weights)
    encoder = encoding.fit(spec, features)
    return Encoded(encoder, families.of(spec)(spec, encoder.encode(features), rows.label, weights))


Fit = Callable[[ModelSpec, Rows], Model]


def judged_predictions(spec: ModelSpec, rows: Rows, judged: slice, fit: Fit = fit) -> Floats:
    """Return for every judged row the prediction of a fit to what was known when its stretch began."""
    stretches = np.array_split(np.arange(judged.start, judged.stop), STRETCHES)
    said = [
        fit(spec, rows[known(rows, stretch[0], spec)]).predict(rows.features[stretch])
        for stretch in stretches
        if stretch.size
    ]
    return np.concatenate(said)


def unseen_predictions(
    spec: ModelSpec, rows: Rows, judged: slice, predictions: Floats, fit: Fit = fit
) -> Floats:
    """Return for every row a prediction by a fit that has not seen it.

    The judged rows have theirs; the older ones are cut into blocks in time, each
    predicted by a fit to the other blocks, so that the loss of the reference is that
    of a model at work and not of one that knows the answers.
    """
    found = np.empty((len(rows), *predictions.shape[1:]))
    found[judged] = predictions
    older = np.arange(judged.start)
    for block in np.array_split(older, FOLDS):
        others = np.setdiff1d(older, block)
        found[block] = fit(spec, rows[others]).predict(rows.features[block])
    return found


def _weights(event_time_ms: NDArray[np.int64], half_life_ms: int | None) -> Floats | None:
    if half_life_ms is None:
        return None
    age = (event_time_ms[-1] - event_time_ms) / half_life_ms
    weights: Floats = np.exp2(-age)
    weights /= weights.mean()
    return weights
