"""Versions that answer: an ONNX file, verified, opened by an engine and warmed.

A `Version` never changes and may be run by many threads at once. One that comes out
of `load` has answered, with as many finite numbers as it was given rows. Its graph may
go cold after that, and is opened again by the request that asks it.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from trimtab_runtime.errors import TrimtabError

from trimtab_serving import lanes, references
from trimtab_serving.cache import Entry
from trimtab_serving.engines import Session
from trimtab_serving.errors import CannotServe, Forgotten
from trimtab_serving.lanes import Lane, Pace
from trimtab_serving.references import Rows

INPUT = "features"
TEXTS = "texts"
OUTPUT = "prediction"
PROBABILITIES = "probabilities"
_WARM_ROWS = (1, 16)
_SHOWN = 8
"""Rows of the reference that it is warmed on."""


@dataclass(frozen=True, slots=True, eq=False)
class Version:
    """A version: `number`, and what it takes, in order."""

    number: int
    features: tuple[str, ...]
    graph: Entry
    output: str
    classes: tuple[str, ...]
    """Of a multiclass task; the output is then their probabilities."""
    texts: tuple[str, ...]
    """What it takes besides that is a text, in order."""
    background: Rows
    """Rows of its reference, their features and their texts, none where it has none: what a prediction is explained against."""
    pace: Pace
    lane: Lane

    @property
    def inputs(self) -> tuple[str, ...]:
        """All that it takes: numbers, and then texts."""
        return self.features + self.texts

    def run(
        self, features: NDArray[np.float32], texts: NDArray[np.object_] | None = None
    ) -> NDArray[np.float32]:
        """Return the predictions [rows] for features [rows, features] and, where it takes some, texts [rows, texts].

        Of a multiclass task they are probabilities [rows, classes].

        Raises:
            ModelBusy: too many wait for it already.
            Unavailable: it is cold, and could not be opened again in time, or its engine is away.
        """
        if len(features) <= self.pace.at_once:
            return self._score(features, texts)
        return self.lane.run(self._score, features, texts)

    def _score(self, features: NDArray[np.float32], texts: NDArray[np.object_] | None) -> NDArray[np.float32]:
        given = {INPUT: features, TEXTS: texts} if self.texts else {INPUT: features}
        session = self.graph.session()
        try:
            said = session.score(self.output, given)
        except Forgotten:
            self.graph.forget(session)
            said = self.graph.session().score(self.output, given)
        answer = np.asarray(said, np.float32)
        return answer if self.classes else answer.reshape(-1)


def load(
    name: str,
    graph: Entry,
    number: int,
    features: Sequence[str],
    reference: bytes | None = None,
    *,
    classes: Sequence[str] = (),
    texts: Sequence[str] = (),
) -> Version:
    """Make a version of a graph: checked, warmed on zeros and on rows of its reference, held to its examples, and timed.

    `name` is what faults call it.

    Raises:
        CannotServe: it takes something else than its features, or does not answer as it should.
    """
    session = graph.session()
    _check_inputs(name, session, {INPUT: len(features)} | ({TEXTS: len(texts)} if texts else {}))
    of_classes = PROBABILITIES in session.gives and len(classes) > 0
    shown = references.read(name, features, texts, reference)
    version = Version(
        number,
        tuple(features),
        graph,
        PROBABILITIES if of_classes else next(iter(session.gives)),
        tuple(classes) if of_classes else (),
        tuple(texts),
        shown.background,
        Pace(lanes.BATCH_ROWS, together=False),
        Lane(name, together=False),
    )
    for rows in _WARM_ROWS:
        _warm(name, version, *_rows(version, rows))
    if len(shown.background.numbers):
        _warm(name, version, shown.background.numbers[:_SHOWN], shown.background.words[:_SHOWN])
    if shown.answers.size:
        references.hold(name, version.run(*shown.examples), shown.answers)
    pace = lanes.measure(lambda rows: version.run(*_rows(version, rows)))
    return replace(version, pace=pace, lane=Lane(name, together=pace.together))


def _rows(version: Version, rows: int) -> tuple[NDArray[np.float32], NDArray[np.object_]]:
    """Return rows of nothing for a version to run."""
    return np.zeros((rows, len(version.features)), np.float32), np.full(
        (rows, len(version.texts)), "", object
    )


def _check_inputs(name: str, session: Session, widths: Mapping[str, int]) -> None:
    """Refuse a graph that takes something else than columns of numbers and of texts, so many of each."""
    types = {INPUT: "tensor(float)", TEXTS: "tensor(string)"}
    if set(session.takes) != set(widths) or any(
        taken.type != types[each] for each, taken in session.takes.items()
    ):
        wanted = f"one float input {INPUT!r}" + (f" and one of strings, {TEXTS!r}" if TEXTS in widths else "")
        raise CannotServe(f"{name} takes {sorted(session.takes)} and not {wanted}: export it anew")
    for each, named in widths.items():
        width = session.takes[each].shape[-1]
        if width is not None and width != named:
            raise CannotServe(f"{name} takes {width} {each} and its record names {named}: export it anew")


def _warm(name: str, version: Version, features: NDArray[np.float32], texts: NDArray[np.object_]) -> None:
    try:
        answer = version.run(features, texts)
    except TrimtabError:
        raise
    except Exception as error:  # an engine's own exceptions share no base
        raise CannotServe(f"{name} fails on {len(features)} rows: {error}; export it anew") from error
    if answer.shape != (len(features), len(version.classes))[: answer.ndim]:
        raise CannotServe(f"{name} gives {answer.size} numbers for {len(features)} rows: export it anew")
    if not np.isfinite(answer).all():
        raise CannotServe(f"{name} gives {answer[~np.isfinite(answer)][0]} for known rows: train it again")
