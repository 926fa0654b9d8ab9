"""What the use cases need of the world."""

from collections.abc import Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Final, Protocol

from trimtab_core.baseline import Calibration, Uncalibrated
from trimtab_core.policy import PolicyState
from trimtab_core.specs import FeatureView, Model, Source, Table
from trimtab_core.watched import Asked, Published, Reading, Row, Standing, Watch

from trimtab_monitoring.usecases.entities import (
    Alert,
    Arrivals,
    Health,
    LabelStream,
    Loop,
    News,
    ReportOrder,
    Version,
    WantedLabel,
)
from trimtab_monitoring.usecases.together import ToClose, Together

MOST_REPORTED: Final = 100_000
"""Rows that a report is of at most."""


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
        prediction's, whenever it was stored; or, where its key has no other, at most
        the stream's `late` after that. Where there are more than `at_most`, the
        oldest come, all of each instant, with the time up to which they are complete.
        """
        ...

    async def predictions(
        self, *, after_ms: int, until_ms: int, at_most: int | None = None
    ) -> tuple[list[Row], int]:
        """Return the predictions of (after, until] as `rows` does, without their labels."""
        ...

    async def asked(
        self, rollout_id: str, *, from_ms: int, after_id: str, until_ms: int, at_most: int
    ) -> list[Asked]:
        """Return the requests of a rollout in which versions were timed, up to a time, in order of (time, id).

        They begin after the id at `from_ms`. Where there are more than `at_most`, the first of them come.
        """
        ...

    async def groups(self, labels: LabelStream, *, after_ms: int, until_ms: int) -> dict[str, str]:
        """Return what an event of the very time and key of a prediction says, by the prediction's id, of (after, until]."""
        ...

    async def labelled(self, labels: LabelStream, *, after_ms: int, before_ms: int) -> int:
        """Return how many predictions between the two times, both left out, have a label."""
        ...

    async def trained_to(self, version: int) -> int | None:
        """Return the event time of the newest row that a version was fitted to, if it is known."""
        ...

    async def standing(self, subjects: Sequence[str], kinds: Sequence[str]) -> list[Alert]:
        """Return the alerts of these kinds about any of the subjects that are open, oldest first."""
        ...

    async def loop(self, id: str) -> Loop | None:
        """Return a loop."""
        ...

    async def loop_of(self, version: int) -> Loop | None:
        """Return the newest loop that gave a version."""
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

    async def put_wanted(self, wanted: Sequence[WantedLabel]) -> None:
        """Remember which predictions are to be labelled; one that is known so changes nothing."""
        ...

    async def readings(self, series: str) -> list[Reading]:
        """Return those that are kept of a series."""
        ...

    async def features(self, version: int) -> Sequence[str]:
        """Return what the predictions of a version carry."""
        ...

    async def leave_open(self, published: Published, *, next_ms: int, number: int | None = None) -> None:
        """Remember a window that was told until `next_ms`; with a `number`, in the place of what has that."""
        ...

    async def left_open(self, *, before_ms: int, at_most: int) -> list[tuple[int, Published]]:
        """Return windows that are to be looked at again by `before_ms`, by number, the longest due first."""
        ...

    async def settle(self, number: int) -> None:
        """Forget a window that was told."""
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

    async def moves(self, *, since_ms: int) -> Mapping[str, int]:
        """Return by stream, where a mark of it was heard since, a number that is another once one of those has moved."""
        ...

    def begin(self, model: str) -> AbstractAsyncContextManager[Unit]:
        """Open a unit of work on a model."""
        ...

    def begin_all(self, asked: Sequence[ToClose]) -> AbstractAsyncContextManager[Mapping[str, Together]]:
        """Open units of work on many models, in one transaction."""
        ...

    async def put_versions(self, versions: Sequence[Version]) -> None:
        """Remember versions and their references."""
        ...

    async def version(self, model: str, number: int) -> Version | None:
        """Return a version, with the features that its predictions carry."""
        ...

    async def calibration(
        self, model: str, version: int, settings: str
    ) -> tuple[Calibration | Uncalibrated | None, int]:
        """Return what was worked out for a version under `settings`, and of a calibration how many bytes it has as JSON."""
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

    async def wanted(self, model: str, labels: LabelStream, at_most: int) -> list[WantedLabel]:
        """Return the newest predictions that are to be labelled and have no label yet."""
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

    async def newest_rows(
        self, model: str, version: int, labels: LabelStream, *, since_ms: int, until_ms: int, at_most: int
    ) -> list[Row]:
        """Return the newest predictions of a version in [since, until), joined with their labels, in order."""
        ...

    async def reports_from(self, model: str) -> int | None:
        """Return where the rows of the reports of `model` that are still to be made begin; None if there are none."""
        ...

    async def published_from(self, model: str) -> int | None:
        """Return where the windows begin of which labels may still correct what was told; None if there are none."""
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

    @property
    def views(self) -> Mapping[str, FeatureView]:
        """The feature views by name."""
        ...

    @property
    def tables(self) -> Mapping[str, Table]:
        """The tables by name."""
        ...

    def model(self, name: str) -> Model:
        """Return a model, or raise `NotFound`."""
        ...

    def source(self, name: str) -> Source:
        """Return a source, or raise `NotFound`."""
        ...


class Rollouts(Protocol):
    """What is wanted to serve."""

    def standing(self, model: str) -> Standing | None:
        """Return where a model stands."""
        ...
