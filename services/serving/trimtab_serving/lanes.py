"""How many requests of one version are computed at once, and which of them together.

A version that answers in no time is run by whoever asks. One that takes long goes
through a lane: so many runs at once, so many requests that wait for one, and no more;
who waits leaves its thread to others, so a slow model slows nobody but itself. Where a
run of many rows costs less than as many runs of one, whatever waits when a run ends is
the next one: a batch as large as the load makes it, and no delay to wait for more.
"""

import threading
from collections import deque
from collections.abc import Callable
from time import monotonic, perf_counter
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from trimtab_runtime import pool
from trimtab_runtime.errors import Unavailable

from trimtab_serving.errors import ModelBusy

RUNS = 2
"""Of a slow version at once."""
MOST_WAITING = 128
"""Requests for one version; one more is told to come back later."""
BATCH_ROWS = 96
"""Taken together at most: a run of trees gains by more rows up to here, and no further."""
_SLOW_S = 0.001
"""What takes longer goes through a lane."""
_GAIN_S = 0.0001
"""What being taken along must save, for waiting for one's turn costs about half of it."""
_SAMPLE_ROWS = 16
_TRIES, _TRIES_S = 5, 0.1

Features = NDArray[np.float32]
Texts = NDArray[np.object_]
Run = Callable[[Features, Texts | None], NDArray[np.float32]]


class Pace(NamedTuple):
    """What a version's runs cost, measured when it was loaded."""

    at_once: int
    """Rows up to which a request is run by whoever asks; 0 for none."""
    together: bool
    """Whether those that wait are run as one."""


def measure(run: Callable[[int], Any]) -> Pace:
    """Time `run`, which takes a number of rows, and say how such a version is to be run."""
    one, many = _least_s(run, 1), _least_s(run, _SAMPLE_ROWS)
    return pace(one, many)


def pace(one_s: float, many_s: float) -> Pace:
    """Return how a version is to be run of which one row takes `one_s` and sixteen take `many_s`."""
    if one_s - many_s / _SAMPLE_ROWS > _GAIN_S:
        return Pace(0, together=True)
    a_row = max(many_s - one_s, 0.0) / (_SAMPLE_ROWS - 1)
    rows = 1 + (_SLOW_S - one_s) / max(a_row, 1e-9)
    return Pace(max(0, int(rows)), together=False)


def _least_s(run: Callable[[int], Any], rows: int) -> float:
    """Return the shortest of a few runs: what else the machine does only makes one longer."""
    found, until = list[float](), perf_counter() + _TRIES_S
    while not found or (len(found) < _TRIES and perf_counter() < until):
        begun = perf_counter()
        run(rows)
        found.append(perf_counter() - begun)
    return min(found)


class _Request:
    """One that waits; `turn` is let go when it is answered, or has to run its `batch` itself."""

    __slots__ = ("answer", "batch", "fault", "features", "texts", "turn", "until")

    def __init__(self, features: Features, texts: Texts | None, until: float) -> None:
        self.features = features
        self.texts = texts
        self.until = until
        """When its caller gives up, on the clock of `monotonic`."""
        self.batch: list[_Request] | None = None
        self.answer: NDArray[np.float32] | None = None
        self.fault: BaseException | None = None
        self.turn = threading.Lock()
        self.turn.acquire()


class Lane:
    """The runs of one version, asked for by many threads."""

    def __init__(self, name: str, *, together: bool) -> None:
        self._name = name
        self._most_rows = BATCH_ROWS if together else 0
        self._lock = threading.Lock()
        self._running = 0
        self._waiting: deque[_Request] = deque()

    @property
    def waiting(self) -> int:
        """Requests that wait for a run to end."""
        return len(self._waiting)

    def run(self, run: Run, features: Features, texts: Texts | None) -> NDArray[np.float32]:
        """Return what `run` answers, when its turn has come.

        Raises:
            ModelBusy: too many wait.
        """
        with pool.aside() as remaining_s:
            mine = _Request(features, texts, monotonic() + remaining_s)
            with self._lock:
                if is_free := self._running < RUNS:
                    self._running += 1
                elif len(self._waiting) >= MOST_WAITING:
                    raise ModelBusy(self._name, MOST_WAITING)
                else:
                    self._waiting.append(mine)
            if is_free:
                mine.batch = [mine]
            else:
                mine.turn.acquire()
            if mine.batch is not None:
                try:
                    _answer(run, mine.batch)
                finally:
                    self._pass_on()
        if mine.fault is not None:
            raise mine.fault
        assert mine.answer is not None
        return mine.answer

    def _pass_on(self) -> None:
        """Give the place of a run that has ended to what has waited longest, and all that goes with it."""
        with self._lock:
            batch, rows, now = list[_Request](), 0, monotonic()
            while self._waiting and (not batch or rows + len(self._waiting[0].features) <= self._most_rows):
                one = self._waiting.popleft()
                if one.until < now:  # nobody hears the answer
                    one.fault = Unavailable(f"{self._name} did not come to it in time: ask again")
                    one.turn.release()
                else:
                    batch.append(one)
                    rows += len(one.features)
            if not batch:
                self._running -= 1
                return
        batch[0].batch = batch
        batch[0].turn.release()


def _answer(run: Run, batch: list[_Request]) -> None:
    """Run a batch as one, by the thread of its first request, and let the others go."""
    try:
        said = _together(run, batch) if len(batch) > 1 else None
        at = 0
        for each in batch:
            if said is None:
                _alone(run, each)
            else:
                each.answer = said[at : at + len(each.features)]
                at += len(each.features)
    finally:
        for each in batch[1:]:
            each.turn.release()


def _together(run: Run, batch: list[_Request]) -> NDArray[np.float32] | None:
    """Return what is said of all rows; None where that fails, which is the fault of one of them perhaps."""
    texts = [each.texts for each in batch if each.texts is not None]
    features = np.concatenate([each.features for each in batch])
    try:
        return run(features, np.concatenate(texts) if texts else None)
    except Exception:  # whatever it raises, the one that is at fault is told alone
        return None


def _alone(run: Run, request: _Request) -> None:
    try:
        request.answer = run(request.features, request.texts)
    except BaseException as error:
        request.fault = error
