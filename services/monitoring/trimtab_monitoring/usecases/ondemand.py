"""Reports that somebody asks for: the newest rows of the live version beside what it was trained on, or the window that drift was told of."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Protocol

from trimtab_core.losses import Task
from trimtab_core.timestamps import iso
from trimtab_core.watched import Row

from trimtab_monitoring.errors import BadQuestion, NothingToReport, UnknownLoop
from trimtab_monitoring.usecases.entities import LabelStream, ReportOrder, StoredFile
from trimtab_monitoring.usecases.ports import MOST_REPORTED, Rollouts, Specs, Store

_ROWS: Final = 10_000
_FIRST_MS: Final = -(2**62)
_LAST_MS: Final = 2**62


@dataclass(frozen=True, slots=True)
class Report:
    """A report and what it is about."""

    version: int
    rows: int
    first_ms: int
    last_ms: int
    html: bytes
    json: bytes


class Drawer(Protocol):
    """Makes reports, away from this process's loop."""

    async def draw(
        self,
        task: Task | None,
        labels: LabelStream,
        rows: Sequence[Row],
        features: Sequence[str],
        reference: StoredFile,
    ) -> tuple[bytes, bytes]:
        """Return the report of `rows` beside the reference, as HTML and as JSON.

        Raises:
            TrimtabError: it could not be made.
        """
        ...

    async def drawn(self, path: str) -> tuple[bytes, bytes] | None:
        """Return a report that was written to a path, as HTML and as JSON; None if none is there."""
        ...


class OnDemand:
    """Makes the reports that are asked for, and finds those that were made for drift."""

    def __init__(self, store: Store, specs: Specs, rollouts: Rollouts, drawer: Drawer) -> None:
        self._store = store
        self._specs = specs
        self._rollouts = rollouts
        self._drawer = drawer

    async def report(self, name: str, since_ms: int | None, until_ms: int | None, rows: int) -> Report:
        """Return a report of the newest `rows` (10,000, if 0) predictions of the live version in [since, until).

        Raises:
            BadQuestion: the times or the number of rows make no sense.
            NothingToReport: there is no live version, no such prediction, or no reference.
            NotFound: there is no such model.
            TrimtabError: it could not be made.
        """
        if not 0 <= rows <= MOST_REPORTED:
            raise BadQuestion(f"rows {rows} is not between 1 and {MOST_REPORTED}: ask for so many")
        if since_ms is not None and until_ms is not None and since_ms >= until_ms:
            raise BadQuestion(f"until {iso(until_ms)} is not after since {iso(since_ms)}: name a later time")
        model = self._specs.model(name)
        standing = self._rollouts.standing(name)
        if standing is None or not standing.champion:
            raise NothingToReport(f"model {name!r} has no live version: there is nothing to report of it yet")
        version = await self._store.version(name, standing.champion)
        if version is None or version.reference is None:
            raise NothingToReport(
                f"version {standing.champion} of {name!r} came without a reference: there is nothing to hold its rows against"
            )
        labels = LabelStream.of(model)
        found = await self._store.newest_rows(
            name, version.number, labels, at_most=rows or _ROWS,
            since_ms=_FIRST_MS if since_ms is None else since_ms, until_ms=_LAST_MS if until_ms is None else until_ms,
        )  # fmt: skip
        if not found:
            raise NothingToReport(
                f"no prediction of version {version.number} of {name!r} is stored{_between(since_ms, until_ms)}: "
                "ask it for some, or name another time"
            )
        html, json = await self._drawer.draw(
            model.spec.task, labels, found, version.features, version.reference
        )
        return Report(version.number, len(found), found[0].at_ms, found[-1].at_ms, html, json)

    async def of_episode(self, name: str, episode: str) -> Report:
        """Return the report that was made of the window with which an episode of drift began; a loop's id is its episode's.

        Where another monitor has made it, or none has yet, it is drawn of that window's rows, while those are stored.

        Raises:
            UnknownLoop: the model has no such episode.
            NothingToReport: no drift began its loop, or neither the report nor what it is made of is there.
            NotFound: there is no such model.
            TrimtabError: it could not be made.
        """
        model = self._specs.model(name)
        loop = await self._store.find_loop(episode)
        if loop is None or loop.model != model.name:
            raise UnknownLoop(episode)
        drift = loop.drift
        if drift is None:
            raise NothingToReport(f"loop {loop.id!r} did not begin with drift, so no report was made for it")
        found = await self._drawer.drawn(drift.report)
        if found is not None:
            return Report(drift.version, drift.rows, drift.from_ms, drift.at_ms, *found)
        order, version = ReportOrder.of(model, drift), await self._store.version(name, drift.version)
        rows = await self._store.report_rows(order)
        if version is None or version.reference is None or len(rows) < min(drift.rows, MOST_REPORTED):
            gone = (
                "predictions of its window are"
                if version and version.reference
                else "reference of its version is"
            )
            raise NothingToReport(
                f"the report of episode {loop.id!r} is not in the data folder of the monitor that answers, and the {gone} no longer "
                "stored: ask a monitor that has it, and let all of them share one TRIMTAB_DATA_DIR"
            )
        html, json = await self._drawer.draw(
            order.task, order.labels, rows, version.features, version.reference
        )
        return Report(drift.version, len(rows), rows[0].at_ms, rows[-1].at_ms, html, json)


def _between(since_ms: int | None, until_ms: int | None) -> str:
    said = "" if since_ms is None else f" from {iso(since_ms)}"
    return said if until_ms is None else f"{said} before {iso(until_ms)}"
