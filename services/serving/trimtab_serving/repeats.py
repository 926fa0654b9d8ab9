"""Answers kept for requests that come again: where a model's spec asks for it, and not at all elsewhere.

A version that remembers stands on the board in the place of the one that it asks, so
what is answered from memory is routed, logged and counted as any other answer. It goes
by the features as they were looked up, never by the request's bytes: a feature that
has moved is another question. Each version has answers of its own.
"""

import itertools
import threading
from collections import OrderedDict
from collections.abc import Hashable, Iterable
from dataclasses import dataclass, fields
from time import monotonic_ns

import numpy as np
from numpy.typing import NDArray

from trimtab_serving.versions import Version

MOST_BYTES = 64 * 1024 * 1024
"""Of all answers of a process and what they answer; beyond it those that were asked longest ago go."""
MOST_ROWS = 256
"""Of a request whose answer is kept."""
_OVERHEAD = 400
"""Bytes of an entry beside what it holds."""

Floats = NDArray[np.float32]


class Answers:
    """What was answered lately, by all versions that remember; any thread may ask."""

    def __init__(self, most_bytes: int = MOST_BYTES) -> None:
        self._most = most_bytes
        self._lock = threading.Lock()
        self._kept: OrderedDict[Hashable, tuple[int, int, Floats]] = OrderedDict()
        self.bytes = 0
        """That are taken."""

    def get(self, question: Hashable) -> Floats | None:
        """Return the answer to a question; None where there is none, or its time is over."""
        with self._lock:
            if (found := self._kept.get(question)) is None:
                return None
            until, size, answer = found
            if until <= monotonic_ns():
                del self._kept[question]
                self.bytes -= size
                return None
            self._kept.move_to_end(question)
            return answer

    def put(self, question: Hashable, answer: Floats, size: int, keep_ms: int) -> None:
        """Keep an answer for so long, `size` being the bytes of its question."""
        answer.setflags(write=False)  # many requests will hold it
        entry = (monotonic_ns() + keep_ms * 1_000_000, size + answer.nbytes + _OVERHEAD, answer)
        with self._lock:
            if (before := self._kept.pop(question, None)) is not None:
                self.bytes -= before[1]
            self._kept[question] = entry
            self.bytes += entry[1]
            while self.bytes > self._most:
                self.bytes -= self._kept.popitem(last=False)[1][1]


_numbers = itertools.count()


@dataclass(frozen=True, slots=True, eq=False)
class Remembering(Version):
    """A version that answers a request like a recent one with what it said then."""

    asks: Version
    keep_ms: int
    token: int
    """Tells its answers from those of others."""
    answers: Answers

    def run(self, features: Floats, texts: NDArray[np.object_] | None = None) -> Floats:
        """Return the predictions, as `Version` does."""
        if len(features) > MOST_ROWS:
            return self.asks.run(features, texts)
        numbers = features.tobytes()
        words = () if texts is None else tuple(texts.ravel().tolist())
        question = (self.token, features.shape, numbers, words)
        if (answer := self.answers.get(question)) is None:
            answer = self.asks.run(features, texts)
            size = len(numbers) + sum(map(len, words))
            self.answers.put(question, answer, size, self.keep_ms)
        return answer


def remembering(
    version: Version, keep_ms: int | None, before: Iterable[Version], answers: Answers
) -> Version:
    """Return what stands on the board for a version whose answers are kept for so long; itself, if they are not.

    What stood there `before` is gone on with, so that a change of something else forgets nothing.
    """
    plain = version.asks if isinstance(version, Remembering) else version
    if keep_ms is None:
        return plain
    for each in before:
        if isinstance(each, Remembering) and each.asks is plain and each.keep_ms == keep_ms:
            return each
    same = {field.name: getattr(plain, field.name) for field in fields(Version)}
    return Remembering(**same, asks=plain, keep_ms=keep_ms, token=next(_numbers), answers=answers)
