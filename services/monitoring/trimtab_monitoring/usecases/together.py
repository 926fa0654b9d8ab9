"""Units of work on many models in one transaction: what closing them usually takes, and nothing that is rare.

A fleet has thousands of models of which each has a few rows to close; one by one they
would cost a transaction each. What a model's unit is asked for was read with the
others', and what it saves and tells is written with theirs. Whatever is rare (a loop, a
report, what the policy remembers) is not offered here: `NotTogether` sends the model to
a unit of its own, and leaves nothing behind.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

from trimtab_core.watched import Published, Reading, Row, Watch

from trimtab_monitoring.usecases.entities import LabelStream, News

MOST_ROWS = 200
"""Of one model; one that has more to close is worth a transaction."""


def ahead_of(watch: Watch) -> int:
    """Return after when predictions are still to be estimated."""
    return watch.ahead.reached_ms or watch.closed_ms


class NotTogether(Exception):
    """A model asks for what only a unit of its own gives."""


class ToClose(NamedTuple):
    """A model that is to be closed up to a time."""

    model: str
    labels: LabelStream
    until_ms: int
    predicted_ms: int
    """Up to when its predictions are complete, with their labels or without."""


class Together:
    """The unit of work on one of the models."""

    def __init__(
        self,
        asked: ToClose,
        watch: Watch,
        rows: Sequence[Row] = (),
        predictions: Sequence[Row] = (),
        open_ms: int | None = None,
    ) -> None:
        """`rows` are to be closed, and `predictions` to be estimated; one more than `MOST_ROWS` if there are too many.

        `open_ms` is when the first window that was told is to be looked at again, None if there is none.
        """
        self.watch = watch
        self.saved: Watch | None = None
        self.told: list[News] = []
        self.kept: dict[str, Sequence[Reading]] = {}
        self.opened: list[tuple[Published, int]] = []
        self._place = (asked.labels, watch.closed_ms, asked.until_ms)
        self._rows = list(rows)
        self._ahead = (ahead_of(watch), asked.predicted_ms)
        self._predictions = list(predictions)
        self._open_ms = open_ms

    async def save_watch(self, watch: Watch) -> None:
        """Remember `watch`."""
        self.watch = self.saved = watch

    async def rows(
        self, labels: LabelStream, *, after_ms: int, until_ms: int, at_most: int | None = None
    ) -> tuple[list[Row], int]:
        """Return the rows that are to be closed, or the first of them; `NotTogether` where others are asked for, or they are many."""
        *place, last_ms = self._place
        if [labels, after_ms] != place or until_ms > last_ms or len(self._rows) > MOST_ROWS:
            raise NotTogether
        return [row for row in self._rows if row.at_ms <= until_ms], until_ms

    async def predictions(
        self, *, after_ms: int, until_ms: int, at_most: int | None = None
    ) -> tuple[list[Row], int]:
        """Return the predictions that are to be estimated; `NotTogether` as `rows`."""
        if (after_ms, until_ms) != self._ahead or len(self._predictions) > MOST_ROWS:
            raise NotTogether
        return self._predictions, until_ms

    async def left_open(self, *, before_ms: int, at_most: int) -> list[tuple[int, Published]]:
        """Return no window that is to be looked at again, where there is none."""
        if self._open_ms is not None and self._open_ms <= before_ms:
            raise NotTogether
        return []

    async def leave_open(self, published: Published, *, next_ms: int, number: int | None = None) -> None:
        """Remember a window that was told until `next_ms`."""
        if number is not None:
            raise NotTogether
        self.opened.append((published, next_ms))

    async def keep_readings(self, series: str, readings: Sequence[Reading]) -> None:
        """Keep the newest readings of a series."""
        self.kept[series] = readings

    async def tell(self, news: Sequence[News]) -> None:
        """Publish `news` once the transaction is committed."""
        self.told += news

    def give_up(self) -> None:
        """Leave nothing behind."""
        self.saved, self.told, self.kept, self.opened = None, [], {}, []

    def __getattr__(self, name: str) -> Any:
        """Refuse what is rare."""
        raise NotTogether
