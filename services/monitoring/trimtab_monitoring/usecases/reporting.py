"""Makes the reports that drift events promise, one at a time, when there is time.

A report that cannot be made is tried again later, a few times, and stands in nobody's
way.
"""

import asyncio
import logging
from collections.abc import Sequence
from typing import Protocol

from trimtab_core.watched import Row
from trimtab_runtime.errors import Unavailable

from trimtab_monitoring.usecases.entities import ReportOrder, StoredFile
from trimtab_monitoring.usecases.ports import Store

log = logging.getLogger(__name__)

_LOOK_S = 30.0


class Reporter(Protocol):
    """Makes a report, away from this process's loop."""

    async def report(
        self, order: ReportOrder, rows: Sequence[Row], features: Sequence[str], reference: StoredFile
    ) -> None:
        """Write the report of `rows` beside the reference.

        Raises:
            TrimtabError: it could not be made.
        """
        ...


class Reports:
    """The queue of reports."""

    def __init__(self, store: Store, reporter: Reporter) -> None:
        self._store = store
        self._reporter = reporter
        self._more = asyncio.Event()

    def ordered(self) -> None:
        """Say that there may be something to do."""
        self._more.set()

    async def work(self) -> None:
        """Make reports until cancelled."""
        while True:
            self._more.clear()
            try:
                while (order := await self._store.next_report()) is not None:
                    await self._make(order)
            except Unavailable as error:
                log.warning("reports wait: %s", error)
            try:
                async with asyncio.timeout(_LOOK_S):
                    await self._more.wait()
            except TimeoutError:
                continue  # a report that failed, here or elsewhere, may be due again

    async def _make(self, order: ReportOrder) -> None:
        version = await self._store.version(order.model, order.version)
        rows = await self._store.report_rows(order)
        if version is None or version.reference is None or not rows:
            log.error(
                "the report of episode %s cannot be made: %s of version %d of %s is gone",
                order.episode, "what it is about" if not rows else "the reference", order.version, order.model,
            )  # fmt: skip
        else:
            try:
                await self._reporter.report(order, rows, version.features, version.reference)
            except (
                Exception
            ) as error:  # the edge of the loop: evidence that cannot be shown must not stop the watch
                log.error("the report of episode %s was not made: %s", order.episode, error)
                return
        await self._store.report_done(order.episode)
