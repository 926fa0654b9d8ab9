"""In-memory twins of monitoring's stores, for tests; they pass the same contract suites."""

import asyncio
import copy
from collections import defaultdict
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace

import msgspec
from trimtab_core.baseline import Calibration, Uncalibrated
from trimtab_core.policy import PolicyState
from trimtab_core.watched import Asked, Published, Reading, Row, Watch

from trimtab_monitoring.errors import BadBatch
from trimtab_monitoring.usecases.entities import (
    Alert,
    Arrivals,
    Delivery,
    Health,
    HeldAlert,
    LabelStream,
    Loop,
    Mark,
    News,
    Predicted,
    ReportOrder,
    Silence,
    Version,
    WantedLabel,
    events_stream,
    predictions_stream,
)
from trimtab_monitoring.usecases.history import START, Place, Wanted
from trimtab_monitoring.usecases.ports import MOST_REPORTED
from trimtab_monitoring.usecases.together import MOST_ROWS, ToClose, Together, ahead_of


@dataclass(slots=True)
class _Tables:
    """All that is stored; a transaction works on these and puts the former ones back if it fails."""

    predictions: dict[tuple[str, str], tuple[str, Row]] = field(default_factory=dict)
    """By model and id: the join key, and the row without its label."""
    times: dict[tuple[str, str], tuple[int, int | None]] = field(default_factory=dict)
    """By model and id: how long champion and challenger ran, where that is known."""
    labels: dict[tuple[str, str, int], float | str] = field(default_factory=dict)
    """By stream, key and event time."""
    marks: dict[tuple[str, str, int], tuple[Mark, int]] = field(default_factory=dict)
    versions: dict[tuple[str, int], Version] = field(default_factory=dict)
    calibrations: dict[tuple[str, int, str], Calibration | Uncalibrated] = field(default_factory=dict)
    watches: dict[str, Watch] = field(default_factory=dict)
    policies: dict[str, PolicyState] = field(default_factory=dict)
    loops: dict[str, Loop] = field(default_factory=dict)
    readings: dict[tuple[str, str], Sequence[Reading]] = field(default_factory=dict)
    wanted: dict[tuple[str, str], WantedLabel] = field(default_factory=dict)
    reports: dict[str, tuple[ReportOrder, int]] = field(default_factory=dict)
    published: dict[int, tuple[str, int, Published]] = field(default_factory=dict)
    """By number: the model, when it is looked at again, and the window."""
    inbox: set[str] = field(default_factory=set)
    told: list[News] = field(default_factory=list)

    def copied(self) -> "_Tables":
        """Return tables of their own with the same contents, which never change themselves."""
        return _Tables(*(copy.copy(getattr(self, name)) for name in self.__dataclass_fields__))


class MemoryStore:
    """Monitoring's tables in dictionaries; `told` is all the news there was, in order."""

    def __init__(self) -> None:
        self._tables = _Tables()
        self._lock = asyncio.Lock()
        self.alerts = MemoryAlerts()
        self.now_ms = 0
        """When marks that are stored are heard."""

    @property
    def told(self) -> list[News]:
        """All the news there was, in order."""
        return self._tables.told

    async def take(self, arrivals: Arrivals) -> None:
        """Store predictions, labels and marks together."""
        async with self._transaction():
            for predicted in arrivals.predicted:
                self._put_predictions(predicted)
            for labelled in arrivals.labelled:
                values: Sequence[float | str] = labelled.classes or labelled.values
                for key, at_ms, value in zip(labelled.keys, labelled.event_time_ms, values, strict=True):
                    self._tables.labels.setdefault((labelled.stream, key, at_ms), value)
            for mark in arrivals.marks:
                place = (mark.stream, mark.instance, mark.partition)
                held = self._tables.marks.get(place)
                newest = max(mark.time_ms, held[0].time_ms) if held else mark.time_ms
                self._tables.marks[place] = (replace(mark, time_ms=newest), self.now_ms)

    def _put_predictions(self, predicted: Predicted) -> None:
        place = (predicted.model, predicted.version)
        known = self._tables.versions.get(place, Version(*place, reference=None))
        if known.features and known.features != predicted.carries:
            raise BadBatch(f"{predicted.carries} are not {known.features}")
        self._tables.versions[place] = replace(known, features=predicted.carries)
        for at, name in enumerate(predicted.ids):
            row = Row(
                at_ms=predicted.event_time_ms[at],
                id=name,
                version=predicted.version,
                generation=predicted.generation,
                challenger_version=predicted.challenger_version,
                rollout_id=predicted.rollout_id,
                champion=predicted.champion[at],
                challenger=predicted.challenger[at] if predicted.challenger else None,
                features=predicted.features[at],
                label=None,
                champion_probabilities=_at(predicted.champion_probabilities, at),
                challenger_probabilities=_at(predicted.challenger_probabilities, at),
                texts=_at(predicted.texts, at),
                key=predicted.keys[at],
                others=_at(predicted.others, at),
            )
            self._tables.predictions.setdefault((predicted.model, name), (predicted.keys[at], row))
            if predicted.champion_us and (ours := predicted.champion_us[at]):
                theirs = predicted.challenger_us[at] if predicted.challenger_us else 0
                self._tables.times.setdefault((predicted.model, name), (ours, theirs or None))

    async def reach(
        self, sources: Mapping[str, str], *, silent_ms: int, now_ms: int
    ) -> dict[str, tuple[int, int]]:
        """Return how far the predictions of models have come, and how far the label source of each."""
        found = {
            model: self._reach(model, source, silent_ms=silent_ms, now_ms=now_ms)
            for model, source in sources.items()
        }
        return {model: reach for model, reach in found.items() if reach is not None}

    async def moves(self, *, since_ms: int) -> dict[str, int]:
        """Return by stream the sum of those of its marks that were heard since."""
        sums: dict[str, int] = defaultdict(int)
        for mark, heard_ms in self._tables.marks.values():
            if heard_ms > since_ms:
                sums[mark.stream] += mark.time_ms
        return dict(sums)

    def _reach(self, model: str, source: str, *, silent_ms: int, now_ms: int) -> tuple[int, int] | None:
        found = []
        for stream in (predictions_stream(model), events_stream(source)):
            writers: dict[str, list[tuple[Mark, int]]] = {}
            for (name, instance, _), mark in self._tables.marks.items():
                if name == stream:
                    writers.setdefault(instance, []).append(mark)
            loud = [
                marks for marks in writers.values() if max(heard for _, heard in marks) >= now_ms - silent_ms
            ]
            counted = loud or list(writers.values())
            if not counted or any(len(marks) < marks[0][0].partitions for marks in counted):
                return None
            found.append(min(mark.time_ms for marks in counted for mark, _ in marks))
        return found[0], found[1]

    @asynccontextmanager
    async def begin(self, model: str) -> AsyncIterator["MemoryUnit"]:
        """Open a unit of work on a model."""
        async with self._transaction() as tables:
            yield MemoryUnit(self, tables, model)

    @asynccontextmanager
    async def begin_all(self, asked: Sequence[ToClose]) -> AsyncIterator[Mapping[str, Together]]:
        """Open units of work on many models, in one transaction."""
        async with self._transaction() as tables:
            units = {}
            for each in asked:
                alone = MemoryUnit(self, tables, each.model)
                watch = alone.watch
                due = [at for name, at, _ in tables.published.values() if name == each.model]
                rows = self.joined(each.model, each.labels, watch.closed_ms, each.until_ms)
                predictions, _ = await alone.predictions(after_ms=ahead_of(watch), until_ms=each.predicted_ms)
                some = slice(0, MOST_ROWS + 1)
                units[each.model] = Together(
                    each, watch, rows[some], predictions[some], min(due, default=None)
                )
            yield units
            for model, unit in units.items():
                if unit.saved is not None:
                    tables.watches[model] = unit.saved
                tables.readings |= {(model, series): tuple(each) for series, each in unit.kept.items()}
                for published, next_ms in unit.opened:
                    await MemoryUnit(self, tables, model).leave_open(published, next_ms=next_ms)
                tables.told.extend(unit.told)

    @asynccontextmanager
    async def _transaction(self) -> AsyncIterator[_Tables]:
        async with self._lock:
            before = self._tables
            self._tables = before.copied()
            try:
                yield self._tables
            except BaseException:
                self._tables = before
                raise

    def joined(self, model: str, labels: LabelStream, after_ms: int, until_ms: int) -> list[Row]:
        """Return predictions of (after, until] with their labels, in order."""
        known: defaultdict[str, list[tuple[int, float | None]]] = defaultdict(list)
        for (stream, key, at_ms), value in self._tables.labels.items():
            if stream == labels.name:
                known[key].append((at_ms, _number(value, labels.classes)))
        found = []
        for (name, _), (key, row) in self._tables.predictions.items():
            if name == model and after_ms < row.at_ms <= until_ms:
                if labels.wanted:
                    asked = self._tables.wanted.get((model, row.id))
                    row = row._replace(weight=asked.weight if asked else None)
                    if row.weight is None:
                        found.append(row)
                        continue
                within = labels.within_ms + (labels.late_ms if len(known[key]) == 1 else 0)
                in_time = [each for each in known[key] if row.at_ms <= each[0] <= row.at_ms + within]
                found.append(row._replace(label=min(in_time, key=lambda it: it[0])[1]) if in_time else row)
        return sorted(found, key=lambda row: (row.at_ms, row.id))

    def said(self, model: str, labels: LabelStream, after_ms: int, until_ms: int) -> dict[str, str]:
        """Return what events of the very time and key of predictions of (after, until] say, by the predictions' ids."""
        found = {}
        for (name, prediction), (key, row) in self._tables.predictions.items():
            value = self._tables.labels.get((labels.name, key, row.at_ms))
            if name == model and after_ms < row.at_ms <= until_ms and isinstance(value, str):
                found[prediction] = value
        return found

    async def put_versions(self, versions: Sequence[Version]) -> None:
        """Remember versions and their references."""
        for version in versions:
            place = (version.model, version.number)
            held = self._tables.versions.get(place, version)
            self._tables.versions[place] = replace(
                held,
                reference=held.reference or version.reference,
                trained_to_ms=version.trained_to_ms if held.trained_to_ms is None else held.trained_to_ms,
            )

    async def version(self, model: str, number: int) -> Version | None:
        """Return a version, with the features that its predictions carry."""
        return self._tables.versions.get((model, number))

    async def calibration(
        self, model: str, version: int, settings: str
    ) -> tuple[Calibration | Uncalibrated | None, int]:
        """Return what was worked out for a version under `settings`, and of a calibration how many bytes it has as JSON."""
        found = self._tables.calibrations.get((model, version, settings))
        return found, len(msgspec.json.encode(found)) if isinstance(found, Calibration) else 0

    async def put_calibration(
        self, model: str, version: int, settings: str, found: Calibration | Uncalibrated
    ) -> None:
        """Keep what was worked out."""
        self._tables.calibrations.setdefault((model, version, settings), found)

    async def watch(self, model: str) -> Watch:
        """Return what is remembered of a model."""
        return self._tables.watches.get(model, Watch())

    async def loops(self, model: str, *, open_only: bool) -> list[Loop]:
        """Return the loops of a model, or of all where it is empty, oldest first."""
        found = self._tables.loops.values()
        return [loop for loop in found if model in ("", loop.model) and (loop.open or not open_only)]

    async def find_loop(self, id: str) -> Loop | None:
        """Return the loop of this id, or the only one whose id begins so."""
        begun = [loop for name, loop in self._tables.loops.items() if id and name.startswith(id)]
        return self._tables.loops.get(id) or (begun[0] if len(begun) == 1 else None)

    async def health(self, model: str) -> Health:
        """Return what is known of a model."""
        watch = await self.watch(model)
        rows = [row for (name, _), (_, row) in self._tables.predictions.items() if name == model]
        readings = [
            reading
            for (name, _), held in sorted(self._tables.readings.items())
            if name == model
            for reading in held
        ]
        return Health(watch, sum(row.at_ms > watch.closed_ms for row in rows), readings)

    async def wanted(self, model: str, labels: LabelStream, at_most: int) -> list[WantedLabel]:
        """Return the newest predictions that are to be labelled and have no label yet."""
        rows = sorted(self.joined(model, labels, -1, 2**62), key=lambda row: (-row.at_ms, row.id))
        asked = [row.id for row in rows if row.label is None and (model, row.id) in self._tables.wanted]
        return [self._tables.wanted[model, each] for each in asked[:at_most]]

    async def next_report(self) -> ReportOrder | None:
        """Return the oldest report that is still to be made; one that was tried does not come again so soon."""
        for episode, (order, attempts) in self._tables.reports.items():
            if attempts == 0:
                self._tables.reports[episode] = (order, 1)
                return order
        return None

    async def report_done(self, episode: str) -> None:
        """Take a report off the queue."""
        self._tables.reports.pop(episode, None)

    async def report_rows(self, order: ReportOrder) -> list[Row]:
        """Return the rows that a report is about, the newest `MOST_REPORTED` at most."""
        return await self.newest_rows(
            order.model, order.version, order.labels, since_ms=order.from_ms, until_ms=order.to_ms + 1, at_most=MOST_REPORTED
        )  # fmt: skip

    async def newest_rows(
        self, model: str, version: int, labels: LabelStream, *, since_ms: int, until_ms: int, at_most: int
    ) -> list[Row]:
        """Return the newest predictions of a version in [since, until), in order."""
        rows = self.joined(model, labels, since_ms - 1, until_ms - 1)
        return [row for row in rows if row.version == version][-at_most:]

    async def reports_from(self, model: str) -> int | None:
        """Return where the rows of the reports of `model` that are still to be made begin; None if there are none."""
        waiting = [order.from_ms for order, _ in self._tables.reports.values() if order.model == model]
        return min(waiting, default=None)

    async def published_from(self, model: str) -> int | None:
        """Return where the windows begin of which labels may still correct what was told; None if there are none."""
        begins = [held.after[0] for name, _, held in self._tables.published.values() if name == model]
        return min(begins, default=None)

    async def forget(self, model: str, *, before_ms: int, at_most: int) -> int:
        """Delete up to `at_most` predictions older than `before_ms`."""
        old = [
            place
            for place, (_, row) in self._tables.predictions.items()
            if place[0] == model and row.at_ms < before_ms
        ]
        for place in old[:at_most]:
            del self._tables.predictions[place]
            self._tables.wanted.pop(place, None)
        return len(old[:at_most])

    async def forget_labels(self, stream: str, *, before_ms: int, at_most: int) -> int:
        """Delete up to `at_most` labels older than `before_ms`."""
        old = [place for place in self._tables.labels if place[0] == stream and place[2] < before_ms]
        for place in old[:at_most]:
            del self._tables.labels[place]
        return len(old[:at_most])


class MemoryHistory:
    """The readings of models among the news of a store in memory, less what was forgotten."""

    def __init__(self, store: MemoryStore) -> None:
        self._store = store
        self._forgotten: dict[str, int] = {}

    def _kept(self, shelf: str) -> dict[int, Reading]:
        """Return a shelf's readings by position, of each the newest revision."""
        newest = {
            it.id: (at, it)
            for at, it in enumerate(self._store.told, start=1)
            if isinstance(it, Reading) and it.model == shelf and it.to_ms >= self._forgotten.get(shelf, it.to_ms)
        }  # fmt: skip
        return dict(sorted(newest.values()))

    async def page(self, wanted: Wanted, after: Place, limit: int) -> list[tuple[Place, Reading]]:
        """Return the first readings behind a place, each with its own, in order of time."""
        found = [it for it in self._kept(wanted.shelf).values() if wanted.takes(it)]
        return [(_place(it), it) for it in sorted(found, key=_place) if _place(it) > after][:limit]

    async def before_newest(self, wanted: Wanted, number: int) -> Place:
        """Return the place behind which the newest `number` readings are."""
        found = sorted(_place(it) for it in self._kept(wanted.shelf).values() if wanted.takes(it))
        return found[-number - 1] if len(found) > number else START

    async def told(self, shelf: str, after: int, limit: int) -> list[tuple[int, Reading]]:
        """Return readings behind a position, in the order in which they were told."""
        return [(at, it) for at, it in self._kept(shelf).items() if at > after][:limit]

    async def position(self, shelf: str, since_ms: int | None) -> int:
        """Return the position behind which all readings are that end at or after a time, or the last."""
        kept = self._kept(shelf)
        newer = [at for at, it in kept.items() if since_ms is not None and it.to_ms >= since_ms]
        return min(newer) - 1 if newer else max(kept, default=0)

    async def positions(self, shelves: Sequence[str]) -> dict[str, int]:
        """Return the last position of each shelf that has one."""
        return {shelf: max(kept) for shelf in shelves if (kept := self._kept(shelf))}

    async def forget(self, shelf: str, *, before_ms: int, at_most: int) -> int:
        """Delete the readings of windows that ended before a time."""
        old = sum(it.to_ms < before_ms for it in self._kept(shelf).values())
        self._forgotten[shelf] = max(before_ms, self._forgotten.get(shelf, before_ms))
        return old


def _place(reading: Reading) -> Place:
    return reading.to_ms, reading.id


class MemoryAlerts:
    """Alerts, what is still to be told of them, and silences in dictionaries."""

    def __init__(self) -> None:
        self._held: dict[str, tuple[Alert, int | None]] = {}
        self._seen: set[str] = set()
        self._due: dict[tuple[str, str], tuple[Delivery, int, str]] = {}
        """By sink and id: the delivery, when it is due, and the newest fault."""
        self._silent: set[tuple[str, str]] = set()
        """Of those, which wait for the end of a silence."""
        self._told: set[tuple[str, str]] = set()
        """Sinks and places of which a sink was told that it is on, and not that it is over."""
        self._silences: dict[int, Silence] = {}
        self._last = 0

    async def remember(self, alert: Alert, sinks: Sequence[str], due_ms: int) -> None:
        """Keep an alert, and that `sinks` are to be told."""
        if alert.id in self._seen:
            return
        self._seen.add(alert.id)
        held, resolved_ms = self._held.get(alert.place, (alert, None))
        if alert.resolved:
            if alert.place not in self._held or resolved_ms is not None or held.at_ms > alert.at_ms:
                return
            self._held[alert.place] = held, alert.at_ms
        elif held.at_ms <= alert.at_ms:
            still = resolved_ms is not None and resolved_ms >= alert.at_ms
            self._held[alert.place] = alert, resolved_ms if still else None
        for sink in sinks:
            self._due[sink, alert.id] = Delivery(sink, alert), due_ms, ""

    async def take_due(self, now_ms: int, until_ms: int) -> list[Delivery]:
        """Return what is due, oldest first, and let nobody else have it before `until_ms`."""
        found, waiting = [], set[tuple[str, str]]()
        for place, (each, due_ms, _) in self._due.items():
            if due_ms > now_ms and place not in self._silent:
                waiting.add((each.sink, each.alert.place))
            if due_ms <= now_ms and (each.sink, each.alert.place) not in waiting:
                found.append(place)
        self._silent.difference_update(found)
        for place in found:
            self._due[place] = self._due[place][0], until_ms, self._due[place][2]
        return [self._due[place][0] for place in found]

    async def delivered(self, deliveries: Sequence[Delivery]) -> None:
        """Forget what was told."""
        for each in deliveries:
            del self._due[each.sink, each.alert.id]
            known = (each.sink, each.alert.place)
            (self._told.discard if each.alert.resolved else self._told.add)(known)

    async def put_off(self, deliveries: Sequence[Delivery], due_ms: int, fault: str = "") -> None:
        """Try again at `due_ms`, the end of a silence; or, with a fault, which is kept, after a try that counts."""
        for each in deliveries:
            place = each.sink, each.alert.id
            held, _, before = self._due[place]
            tried = replace(held, attempts=held.attempts + 1 if fault else 0)
            self._due[place] = tried, due_ms, fault or before
            (self._silent.discard if fault else self._silent.add)(place)

    async def settle(self, over: Delivery, due_ms: int) -> None:
        """Drop what a sink was still to be told about an occasion that is over; tell the end at `due_ms` if it knows of it."""
        own, known = (over.sink, over.alert.id), (over.sink, over.alert.place)
        for place, (each, _, _) in list(self._due.items()):
            if (each.sink, each.alert.place) == known and (place != own or known not in self._told):
                del self._due[place]
            if place == own:
                break
        if known in self._told:
            await self.put_off([over], due_ms)

    async def alerts(self, subject: str, *, open_only: bool) -> list[HeldAlert]:
        """Return the alerts about a subject, or all where it is empty, newest first."""
        found = []
        for place, (alert, resolved_ms) in self._held.items():
            if subject in ("", alert.subject) and not (open_only and resolved_ms is not None):
                waiting = [(it.sink, fault) for it, _, fault in self._due.values() if it.alert.place == place]
                sinks = tuple(sorted({sink for sink, _ in waiting}))
                found.append(HeldAlert(alert, resolved_ms, sinks, max((it for _, it in waiting), default="")))
        return sorted(found, key=lambda held: (-held.alert.at_ms, held.alert.place))

    async def silence(self, silence: Silence) -> Silence:
        """Keep a silence, and return it with its id."""
        self._last += 1
        self._silences[self._last] = replace(silence, id=self._last)
        return self._silences[self._last]

    async def silences(self, now_ms: int) -> list[Silence]:
        """Return those that hold."""
        return [silence for silence in self._silences.values() if silence.until_ms > now_ms]

    async def end_silence(self, id: int) -> Silence | None:
        """Take a silence away, make due what it put off, and return it."""
        ended = self._silences.pop(id, None)
        for place, (delivery, due_ms, fault) in self._due.items():
            if ended is not None and due_ms == ended.until_ms and place in self._silent:
                self._due[place] = delivery, 0, fault
        return ended


class MemoryUnit:
    """A unit of work in memory."""

    def __init__(self, store: MemoryStore, tables: _Tables, model: str) -> None:
        self.watch = tables.watches.get(model, Watch())
        self.policy = tables.policies.get(model, PolicyState())
        self._store = store
        self._tables = tables
        self._model = model

    async def save_watch(self, watch: Watch) -> None:
        """Remember `watch`."""
        self.watch = self._tables.watches[self._model] = watch

    async def save_policy(self, policy: PolicyState) -> None:
        """Remember what the retrain policy remembers."""
        self.policy = self._tables.policies[self._model] = policy

    async def rows(
        self, labels: LabelStream, *, after_ms: int, until_ms: int, at_most: int | None = None
    ) -> tuple[list[Row], int]:
        """Return the predictions of (after, until] with their labels, and up to when they are complete."""
        return _whole_instants(self._store.joined(self._model, labels, after_ms, until_ms), until_ms, at_most)

    async def predictions(
        self, *, after_ms: int, until_ms: int, at_most: int | None = None
    ) -> tuple[list[Row], int]:
        """Return the predictions of (after, until] without their labels, and up to when they are complete."""
        none = LabelStream("", "", "", 0)
        return _whole_instants(self._store.joined(self._model, none, after_ms, until_ms), until_ms, at_most)

    async def asked(
        self, rollout_id: str, *, from_ms: int, after_id: str, until_ms: int, at_most: int
    ) -> list[Asked]:
        """Return the requests of a rollout in which versions were timed, in order."""
        found = [
            Asked(row.at_ms, row.id, row.challenger_version, row.champion, row.challenger, *took, row.others)
            for (model, name), took in self._tables.times.items()
            for _, row in [self._tables.predictions[model, name]]
            if model == self._model and row.rollout_id == rollout_id
        ]
        return sorted(each for each in found if (from_ms, after_id) < each[:2] < (until_ms + 1, ""))[:at_most]

    async def groups(self, labels: LabelStream, *, after_ms: int, until_ms: int) -> dict[str, str]:
        """Return what an event of the very time and key of a prediction says, by the prediction's id, of (after, until]."""
        return self._store.said(self._model, labels, after_ms, until_ms)

    async def labelled(self, labels: LabelStream, *, after_ms: int, before_ms: int) -> int:
        """Return how many predictions between the two times, both left out, have a label."""
        rows = self._store.joined(self._model, labels, after_ms, before_ms - 1)
        return sum(row.label is not None for row in rows)

    async def trained_to(self, version: int) -> int | None:
        """Return the event time of the newest row that a version was fitted to, if it is known."""
        held = self._tables.versions.get((self._model, version))
        return held.trained_to_ms if held else None

    async def standing(self, subjects: Sequence[str], kinds: Sequence[str]) -> list[Alert]:
        """Return the alerts of these kinds about any of the subjects that are open, oldest first."""
        found = [await self._store.alerts.alerts(subject, open_only=True) for subject in subjects]
        alerts = [held.alert for each in found for held in each if held.alert.kind in kinds]
        return sorted(alerts, key=lambda alert: (alert.at_ms, alert.place))

    async def loop(self, id: str) -> Loop | None:
        """Return a loop."""
        return self._tables.loops.get(id)

    async def loop_of(self, version: int) -> Loop | None:
        """Return the newest loop that gave a version."""
        loops = [loop for loop in self._tables.loops.values() if loop.model == self._model]
        return next((loop for loop in reversed(loops) if loop.version == version), None)

    async def put_loop(self, loop: Loop) -> None:
        """Write a loop down."""
        self._tables.loops[loop.id] = loop

    async def first_sight(self, id: str) -> bool:
        """Remember `id`; False if it was there before."""
        fresh = id not in self._tables.inbox
        self._tables.inbox.add(id)
        return fresh

    async def keep_readings(self, series: str, readings: Sequence[Reading]) -> None:
        """Keep the newest readings of a series."""
        self._tables.readings[self._model, series] = tuple(readings)

    async def put_wanted(self, wanted: Sequence[WantedLabel]) -> None:
        """Remember which predictions are to be labelled."""
        for each in wanted:
            self._tables.wanted.setdefault((self._model, each.id), each)

    async def readings(self, series: str) -> list[Reading]:
        """Return those that are kept of a series."""
        return list(self._tables.readings.get((self._model, series), ()))

    async def features(self, version: int) -> Sequence[str]:
        """Return what the predictions of a version carry."""
        held = self._tables.versions.get((self._model, version))
        return held.features if held else ()

    async def leave_open(self, published: Published, *, next_ms: int, number: int | None = None) -> None:
        """Remember a window that was told until `next_ms`; with a `number`, in the place of what has that."""
        held = self._tables.published
        held[max(held, default=0) + 1 if number is None else number] = (self._model, next_ms, published)

    async def left_open(self, *, before_ms: int, at_most: int) -> list[tuple[int, Published]]:
        """Return windows that are to be looked at again by `before_ms`, by number, the longest due first."""
        due = [
            (next_ms, number, published)
            for number, (name, next_ms, published) in self._tables.published.items()
            if name == self._model and next_ms <= before_ms
        ]
        return [(number, published) for _, number, published in sorted(due, key=lambda it: it[:2])[:at_most]]

    async def settle(self, number: int) -> None:
        """Forget a window that was told."""
        self._tables.published.pop(number, None)

    async def order_report(self, order: ReportOrder) -> None:
        """Queue a report, once an episode."""
        self._tables.reports.setdefault(order.episode, (order, 0))

    async def tell(self, told: Sequence[News]) -> None:
        """Tell, if the transaction is not undone."""
        self._tables.told.extend(told)


def _whole_instants(rows: list[Row], until_ms: int, at_most: int | None) -> tuple[list[Row], int]:
    """Return about `at_most` of `rows`, all of each instant, and up to when they are complete."""
    if at_most is None or len(rows) <= at_most:
        return rows, until_ms
    last = rows[at_most].at_ms
    if whole := [row for row in rows if row.at_ms < last]:
        return whole, last - 1
    return [row for row in rows if row.at_ms == last], last


def _at(column: Sequence[bytes] | None, at: int) -> bytes | None:
    return None if column is None else column[at]


def _number(value: float | str, classes: Sequence[str]) -> float | None:
    if not isinstance(value, str):
        return value
    return float(classes.index(value)) if value in classes else None
