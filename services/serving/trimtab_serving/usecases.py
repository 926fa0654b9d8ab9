"""What serving does with a request: the hot path, from rows or tensors to answers.

Runs on the door's threads. It takes one snapshot, waits for nobody, writes to no
disk or socket, and leaves what it saw and said with the prediction log and the meter.
"""

import itertools
import logging
import os
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from time import perf_counter_ns
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from trimtab_core.losses import answered
from trimtab_runtime.clock import Clock

from trimtab_serving import outcomes
from trimtab_serving.errors import BadRow, BadTensor, ModelBusy
from trimtab_serving.meter import Meter, Totals
from trimtab_serving.predictionlog import Answered, PredictionLog
from trimtab_serving.rows import Ages, Given, Inputs
from trimtab_serving.snapshot import CHAMPION, Board, Served
from trimtab_serving.versions import Version

log = logging.getLogger(__name__)

Floats = NDArray[np.float32]
Tensors = tuple[Inputs, Sequence[str], Sequence[int]]
"""What a version takes, and for each row the label's join key and the event time, or neither."""
Named = tuple[Sequence[str], NDArray[Any]]
"""Names of features, and their values, row by row."""
_NOTHING = Ages()


class Answer(NamedTuple):
    """What a request gets back: one of each a row."""

    predictions: Floats
    """[rows], or the probabilities [rows, classes] of a multiclass task."""
    versions: Sequence[int]
    ids: Sequence[str]
    features_until_ms: int | None = None
    """The watermark of the online features that were used; None where none were."""
    classes: tuple[str, ...] = ()
    """Of a multiclass task, whose predictions are probabilities [rows, classes]."""
    arms: Sequence[str] = ()
    """That answered each row; none where the request took part in no rollout."""
    views: Ages = _NOTHING
    """That were looked into, as they were then."""


class Question(NamedTuple):
    """Rows as the versions take them, and what the log wants to know of them."""

    inputs: Inputs
    others: Callable[[tuple[str, ...]], Inputs] | None
    """How to make what a challenger takes that takes others; None where the caller brought the champion's."""
    keys: Sequence[str]
    """The label's join key."""
    event_time_ms: Sequence[int]
    arms: Sequence[int]
    """Which arm each row is in; none where nothing is on trial."""
    one_version: bool = False
    """Whether one version has to answer all rows."""


class Predictions:
    """Answers for all models."""

    def __init__(self, board: Board, predictions: PredictionLog, meter: Meter, clock: Clock) -> None:
        self._board = board
        self._log = predictions
        self._meter = meter
        self._clock = clock
        self._id_prefix = os.urandom(8).hex()
        self._numbers = itertools.count(1)

    def predict(
        self, model: str, rows: Sequence[bytes], version: int = 0, given: Given | None = None
    ) -> Answer:
        """Answer for rows of the model's source, with the features as they were at each row's event time.

        `version` pins a warm version; its answers are not logged. It may be `given` features of views by a caller who has
        them from elsewhere.

        Raises:
            UnknownModel, NoLiveVersion, VersionNotWarm, BadRow: what they say.
        """
        begun = perf_counter_ns()
        served = self._board.current.of(model)
        try:
            return self._predict(served, rows, version, begun, given)
        except Exception:
            self._failed(served, begun)
            raise

    def infer(self, model: str, read: Callable[[Version], Tensors], version: int | str = 0) -> Answer:
        """Answer for rows whose features the caller has; all of them get the same version's answer.

        `read` is given the version that is to take the rows, and returns them.
        Without keys the champion answers and nothing is logged, for no label could ever
        be joined. Without event times the rows are of now.

        Raises:
            UnknownModel, NoLiveVersion, VersionNotWarm, BadTensor: what they say.
        """
        begun = perf_counter_ns()
        served = self._board.current.of(model)
        try:
            answering = served.pinned(version)
            inputs, keys, times = read(answering)
            if version or not keys:
                return self._unlogged(served, answering, inputs, begun)
            arms = [served.arm_of(keys[0])] * len(keys) if served.challengers else ()
            times = times or [self._clock.now_ms()] * len(keys)
            return self._logged(served, Question(inputs, None, keys, times, arms, one_version=True), begun)
        except Exception:
            self._failed(served, begun)
            raise

    def score(self, model: str, numbers: Named, texts: Named, version: int = 0) -> Answer:
        """Answer for rows of named features, numbers and texts, each laid one row after the other; nothing of it is logged.

        Raises:
            UnknownModel, NoLiveVersion, VersionNotWarm, BadTensor: what they say.
        """
        begun = perf_counter_ns()
        served = self._board.current.of(model)
        answering = served.pinned(version)
        words = _taken(answering.number, answering.texts, *texts) if answering.texts else None
        if words is not None and not answering.features:
            features = np.empty((len(words), 0), np.float32)
        else:
            features = _taken(answering.number, answering.features, *numbers)
        if words is not None and len(words) != len(features):
            raise BadTensor(
                f"{len(features)} rows of numbers came with {len(words)} of texts: send one of each"
            )
        return self._unlogged(served, answering, (features, words), begun)

    def totals(self) -> Mapping[tuple[str, int], Totals]:
        """Return what each version, by model and number, was asked since this process began."""
        return self._meter.totals()

    def _predict(
        self, served: Served, rows: Sequence[bytes], version: int, begun: int, given: Given | None = None
    ) -> Answer:
        reader = served.reader
        answering = served.pinned(version)
        asked = reader.read(rows, answering.inputs)
        if given is not None:
            if not version:
                raise BadRow(
                    "features are given and no version is pinned: pin one, for such answers are not logged"
                )
            return self._unlogged(served, answering, reader.inputs(asked, answering.inputs, given), begun)
        # The watermarks come first: what is read after them holds at least as much as they say.
        until_ms, views = reader.features_until_ms(), reader.ages(asked, answering.inputs)
        inputs = reader.inputs(asked, answering.inputs)
        if version:
            return self._unlogged(served, answering, inputs, begun, until_ms, views)
        arms = [served.arm_of(key) for key in asked.keys] if served.challengers else ()
        others = partial(reader.inputs, asked) if served.challengers else None
        question = Question(inputs, others, asked.join_keys, asked.event_time_ms, arms)
        return self._logged(served, question, begun, until_ms, views)

    def _unlogged(
        self,
        served: Served,
        answering: Version,
        inputs: Inputs,
        begun: int,
        until_ms: int | None = None,
        views: Ages = _NOTHING,
    ) -> Answer:
        rows = len(inputs[0])
        predictions, versions = answering.run(*inputs), [answering.number] * rows
        latency_us = (perf_counter_ns() - begun) // 1000
        self._meter.answered(served.model, versions, latency_us, self._clock.now_ms())
        return Answer(predictions, versions, self._ids(rows), until_ms, answering.classes, (), views)

    def _failed(self, served: Served, begun: int) -> None:
        latency_us = (perf_counter_ns() - begun) // 1000
        self._meter.failed(served.model, served.champion.number, latency_us, self._clock.now_ms())

    def _logged(
        self,
        served: Served,
        question: Question,
        begun: int,
        until_ms: int | None = None,
        views: Ages = _NOTHING,
    ) -> Answer:
        features, texts = question.inputs
        rows = len(features)
        ticket = self._log.enter(served.model, question.event_time_ms)
        try:
            started_ns = perf_counter_ns()
            champion = predictions = served.champion.run(features, texts)
            took_us: Sequence[int] = ()
            versions, named = [served.champion.number] * rows, [CHAMPION] * rows
            challengers: Sequence[Floats] = ()
            arms: Sequence[int] = ()
            if served.challengers:
                of_champion_us = _since_us(started_ns)
                said = [self._said_by(each, served, question) for each in served.challengers]
                champion, challengers = outcomes.alike(champion, [answers for answers, _ in said])
                took_us = [of_champion_us, *(us for _, us in said)]
                predictions, arms = _chosen(question, champion, challengers)
                versions = [served.challengers[arm - 1].number if arm else versions[0] for arm in arms]
                named = [served.name_of(arm) for arm in arms]
            ids, now_ms = self._ids(rows), self._clock.now_ms()
            latency_us = (perf_counter_ns() - begun) // 1000
            self._log.add(
                Answered(
                    served,
                    ids,
                    question.keys,
                    question.event_time_ms,
                    now_ms,
                    champion,
                    challengers,
                    arms,
                    features,
                    latency_us,
                    texts,
                    took_us,
                    until_ms,
                )
            )
        finally:
            self._log.leave(ticket)
        self._meter.answered(served.model, versions, latency_us, now_ms)
        return Answer(predictions, versions, ids, until_ms, outcomes.classes_of(served), named, views)

    def _said_by(self, version: Version, served: Served, question: Question) -> tuple[Floats, int]:
        """Return what a version on trial says, and for how many microseconds it ran; 0 if it could not be asked."""
        rows, alike = len(question.inputs[0]), version.inputs == served.champion.inputs
        if not alike and question.others is None:
            return outcomes.nothing(version, rows), 0
        started_ns = perf_counter_ns()
        try:
            inputs = question.inputs if alike or question.others is None else question.others(version.inputs)
            started_ns = perf_counter_ns()
            return version.run(*inputs), _since_us(started_ns)
        except ModelBusy:
            pass  # it says so by having no answer; a line for each would only add to the load
        except Exception:  # whatever it raises: a version on trial must not fail a request
            log.exception("version %d of model %r failed", version.number, served.model)
        return outcomes.nothing(version, rows), _since_us(started_ns)

    def _ids(self, rows: int) -> list[str]:
        return [f"{self._id_prefix}{next(self._numbers):016x}" for _ in range(rows)]


def _since_us(started_ns: int) -> int:
    """Return how long a run took that ends now; none took no time."""
    return max((perf_counter_ns() - started_ns) // 1000, 1)


def _taken(number: int, wanted: Sequence[str], names: Sequence[str], values: NDArray[Any]) -> NDArray[Any]:
    """Return what a version takes of named values, [rows, wanted]."""
    places = {name: at for at, name in enumerate(names)}
    if missing := [name for name in wanted if name not in places]:
        raise BadTensor(f"version {number} takes {missing[0]!r}, which is not among the features: add it")
    if not values.size or values.size % len(names):
        raise BadTensor(
            f"{values.size} values make no rows of {len(names)} features: send one of each for each row"
        )
    rows = values.reshape(-1, len(names))[:, [places[name] for name in wanted]]
    return np.ascontiguousarray(rows)


def _chosen(
    question: Question, champion: Floats, challengers: Sequence[Floats]
) -> tuple[Floats, Sequence[int]]:
    """Return what is answered, and by which arm; a challenger that has no answer costs its caller nothing."""
    arms = np.array(question.arms)
    for arm, said in enumerate(challengers, 1):
        arms[(arms == arm) & ~answered(said)] = 0
    if question.one_version and not arms.all():
        arms[:] = 0
    return outcomes.chosen(arms, champion, challengers), arms.tolist()
