"""What the use cases need of the world."""

from collections.abc import Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Protocol

from trimtab_core.baseline import Calibration, Uncalibrated
from trimtab_core.policy import PolicyState
from trimtab_core.specs import Model, Source
from trimtab_core.watched import Reading, Row, Standing, Watch

from trimtab_monitoring.usecases.entities import (
    Arrivals,
    Health,
    LabelStream,
    Loop,
    News,
    ReportOrder,
    Version,
)
from trimtab_monitoring.usecases.together import Asked, Together


class Unit(Protocol):
    """One transaction on one model, whose row it locks; all of it happens, or nothing."""

    watch: Watch
    policy: PolicyState

    async def save_watch(self, watch: Watch) -> None:
        """Remember `watch`."""
        ...

    async def save_policy(self, policy: PolicyState) -> None:
        """Remember what the retrain policy remembers."""
        ...

    async def rows(
        self, labels: LabelStream, *, after_ms: int, until_ms: int, at_most: int | None = None
    ) -> tuple[list[Row], int]:
        """Return the predictions of (after, until], joined with their labels, in order of (time, id).

        A label counts if its event time is at most the stream's `within` after the
        prediction's, whenever it was stored. Where there are more than `at_most`, the
        oldest come, all of each instant, with the time up to which they are complete.
        """
        ...

    async def labelled(self, labels: LabelStream, *, after_ms: int, before_ms: int) -> int:
        """Return how many predictions between the two times, both left out, have a label."""
        ...

    async def trained_to(self, version: int) -> int | None:
        """Return the event time of the newest row that a version was fitted to, if it is known."""
        ...

    async def loop(self, id: str) -> Loop | None:
        """Return a loop."""
        ...

    async def put_loop(self, loop: Loop) -> None:
        """Write a loop down, in the place of what was there under its id."""
        ...

    async def first_sight(self, id: str) -> bool:
        """Remember `id`; False if it was there before."""
        ...

    async def keep_readings(self, series: str, readings: Sequence[Reading]) -> None:
        """Keep the newest readings of a series for whoever looks at the model."""
        ...

    async def order_report(self, order: ReportOrder) -> None:
        """Queue a report; a second order for the same episode changes nothing."""
        ...

    async def tell(self, news: Sequence[News]) -> None:
        """Publish `news` once the transaction is committed."""
        ...


class Store(Protocol):
    """Where monitoring keeps everything."""

    async def take(self, arrivals: Arrivals) -> None:
        """Store predictions, labels and marks together; what is there already changes nothing."""
        ...

    async def reach(
        self, sources: Mapping[str, str], *, silent_ms: int, now_ms: int
    ) -> Mapping[str, tuple[int, int]]:
        """Return how far the predictions of models have come, and how far the label source of each; `sources` are by model.

        A model is left out while any partition of either has yet to speak. A serving instance that was
        last heard more than `silent_ms` ago counts only if all are silent.
        """
        ...

    def begin(self, model: str) -> AbstractAsyncContextManager[Unit]:
        """Open a unit of work on a model."""
        ...

    def begin_all(self, asked: Sequence[Asked]) -> AbstractAsyncContextManager[Mapping[str, Together]]:
        """Open units of work on many models, in one transaction."""
        ...

    async def put_versions(self, versions: Sequence[Version]) -> None:
        """Remember versions and their references."""
        ...

    async def version(self, model: str, number: int) -> Version | None:
        """Return a version, with the features that its predictions carry."""
        ...

    async def calibration(self, model: str, version: int, settings: str) -> Calibration | Uncalibrated | None:
        """Return what was worked out for a version under `settings`."""
        ...

    async def put_calibration(
        self, model: str, version: int, settings: str, found: Calibration | Uncalibrated
    ) -> None:
        """Keep what was worked out."""
        ...

    async def watch(self, model: str) -> Watch:
        """Return what is remembered of a model."""
        ...

    async def loops(self, model: str, *, open_only: bool) -> list[Loop]:
        """Return the loops of a model, or of all where it is empty, oldest first."""
        ...

    async def find_loop(self, id: str) -> Loop | None:
        """Return the loop of this id, or the only one whose id begins so."""
        ...

    async def health(self, model: str) -> Health:
        """Return what is known of a model."""
        ...

    async def next_report(self) -> ReportOrder | None:
        """Return the oldest report that is still to be made, and count the try."""
        ...

    async def report_done(self, episode: str) -> None:
        """Take a report off the queue."""
        ...

    async def report_rows(self, order: ReportOrder) -> list[Row]:
        """Return the rows that a report is about."""
        ...

    async def reports_from(self, model: str) -> int | None:
        """Return where the rows of the reports of `model` that are still to be made begin; None if there are none."""
        ...

    async def forget(self, model: str, *, before_ms: int, at_most: int) -> int:
        """Delete up to `at_most` predictions older than `before_ms`, and return how many went."""
        ...

    async def forget_labels(self, stream: str, *, before_ms: int, at_most: int) -> int:
        """Delete up to `at_most` labels of a stream older than `before_ms`, and return how many went."""
        ...


class Specs(Protocol):
    """What has been applied."""

    @property
    def models(self) -> Mapping[str, Model]:
        """The models by name."""
        ...

    @property
    def sources(self) -> Mapping[str, Source]:
        """The sources by name."""
        ...

    def model(self, name: str) -> Model:
        """Return a model, or raise `NotFound`."""
        ...


class Rollouts(Protocol):
    """What is wanted to serve."""

    def standing(self, model: str) -> Standing | None:
        """Return where a model stands."""
        ...
