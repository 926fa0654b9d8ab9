"""Alerts on their way to people: who is told, when, and when nobody is.

An alert is remembered and addressed in one transaction, once however often it is
heard; each sink is told until it has taken it, in the order in which things happened.
What comes about one subject within a few seconds is told together. A silence puts off
what it is about: at its end a sink is told what then still stands, and what is over by
then only if it was told of it before. Where many subjects have something at once, as when
the world changes for thousands of models, a sink is told of all of them in one message.
"""

import asyncio
import logging
from collections.abc import Mapping, Sequence
from itertools import groupby
from operator import attrgetter
from typing import Final, Protocol

from trimtab_core.alertkinds import KINDS
from trimtab_core.specs import Model
from trimtab_runtime.clock import Clock
from trimtab_runtime.errors import Unavailable

from trimtab_monitoring.errors import BadSilence, MessageRefused, UnknownSilence, UnknownSubject
from trimtab_monitoring.usecases.entities import Alert, Delivery, HeldAlert, Severity, Silence
from trimtab_monitoring.usecases.ports import Specs

log = logging.getLogger(__name__)

_LOOK_S: Final = 1.0
_TOGETHER_MS: Final = 2_000
"""How long an alert waits for others about its subject."""
_LEASE_MS: Final = 60_000
"""Who has taken a delivery has so long to make it, before another monitor tries."""
_BACKOFF_MS: Final = (5_000, 15_000, 60_000, 300_000, 900_000)
_MOST_ATTEMPTS: Final = 100
"""After about a day a sink that takes nothing is given up for this alert."""
_MANY: Final = 10
"""Subjects of which more are told in one message."""
RANKS: Final[dict[Severity, int]] = {"info": 0, "warning": 1, "critical": 2}


class Sink(Protocol):
    """Somewhere people look."""

    async def send(self, alerts: Sequence[Alert]) -> None:
        """Tell of alerts, those about one subject side by side and oldest first.

        Raises:
            MessageRefused: it does not take these, and perhaps some of them.
            Unavailable: it did not take them.
        """
        ...


class AlertStore(Protocol):
    """Where alerts, what is still to be told of them, and silences are kept."""

    async def remember(self, alert: Alert, sinks: Sequence[str], due_ms: int) -> None:
        """Keep an alert, and that `sinks` are to be told.

        What was heard before changes nothing, nor does the news that something is over which is not open.
        """
        ...

    async def take_due(self, now_ms: int, until_ms: int) -> list[Delivery]:
        """Return some of what is due, oldest first, and let nobody else have it before `until_ms`.

        What comes after something about the same occasion that the sink has not taken waits for that, whoever is telling it, unless
        a silence puts that off.
        """
        ...

    async def delivered(self, deliveries: Sequence[Delivery]) -> None:
        """Forget what was told."""
        ...

    async def put_off(self, deliveries: Sequence[Delivery], due_ms: int, fault: str = "") -> None:
        """Try again at `due_ms`, the end of a silence, and count tries anew; or, with a fault, which is kept, after a try that counts."""
        ...

    async def settle(self, over: Delivery, due_ms: int) -> None:
        """Drop what a sink was still to be told about an occasion that is over.

        The news that it is over is kept until `due_ms` if the sink was told that it is on, and dropped else.
        """
        ...

    async def alerts(self, subject: str, *, open_only: bool) -> list[HeldAlert]:
        """Return the alerts about a subject, or all where it is empty, newest first, 1,000 at most."""
        ...

    async def silence(self, silence: Silence) -> Silence:
        """Keep a silence, and return it with its id."""
        ...

    async def silences(self, now_ms: int) -> list[Silence]:
        """Return those that hold."""
        ...

    async def end_silence(self, id: int) -> Silence | None:
        """Take a silence away, make due what it put off, and return it; None if there is none."""
        ...


class Alerting:
    """Takes alerts in, and tells the sinks."""

    def __init__(self, store: AlertStore, specs: Specs, sinks: Mapping[str, Sink], clock: Clock) -> None:
        self._store = store
        self._specs = specs
        self._sinks = sinks
        self._clock = clock

    async def heard(self, alert: Alert) -> None:
        """Take in an alert, or the news that one is over.

        Raises:
            Unavailable: PostgreSQL is away.
        """
        await self._store.remember(alert, self._addressed(alert), self._clock.now_ms() + _TOGETHER_MS)

    def _addressed(self, alert: Alert) -> list[str]:
        """Return the sinks that an alert is for: a model's spec may name them, and how serious it must be."""
        model = self._specs.models.get(alert.subject)
        if model is None:
            return list(self._sinks)
        rule = model.spec.alerts
        if RANKS[alert.severity] < RANKS[rule.at_least]:
            return []
        if said := self.untold(model):
            log.error("%s", said)
        wanted = list(self._sinks) if rule.to is None else list(rule.to)
        return [name for name in wanted if name in self._sinks]

    def untold(self, model: Model) -> str:
        """Return in a sentence which sinks a model wants told that there are not; nothing, if there are all."""
        missing = [name for name in model.spec.alerts.to or () if name not in self._sinks]
        if not missing:
            return ""
        return (
            f"alerts.to of model {model.name!r} names {', '.join(missing)}, which TRIMTAB_MONITORING_ALERT_SINKS does not: add it "
            "there, or nobody is told"
        )

    async def work(self) -> None:
        """Tell the sinks what is due, until cancelled."""
        while True:
            try:
                if await self.tell():
                    continue
            except Unavailable as error:
                log.warning("alerts wait: %s", error)
            await asyncio.sleep(_LOOK_S)

    async def tell(self) -> int:
        """Tell the sinks some of what is due, and return how much that was."""
        now_ms = self._clock.now_ms()
        due = await self._store.take_due(now_ms, now_ms + _LEASE_MS)
        silences = await self._store.silences(now_ms) if due else []
        told = await asyncio.gather(*(self._unsilenced(each, silences) for each in due))
        speaking = sorted(
            (each for each in told if each is not None),
            key=lambda it: (it.sink, it.alert.subject, it.alert.at_ms),
        )
        await asyncio.gather(*(self._send(*message) for message in _messages(speaking)))
        return len(due)

    async def _unsilenced(self, delivery: Delivery, silences: Sequence[Silence]) -> Delivery | None:
        until_ms = max((each.until_ms for each in silences if each.holds(delivery.alert)), default=None)
        if until_ms is None:
            return delivery
        if delivery.alert.resolved:
            await self._store.settle(delivery, until_ms)
        else:
            await self._store.put_off([delivery], until_ms)
        return None

    async def _send(self, sink: str, group: Sequence[Delivery]) -> None:
        subjects = sorted({each.alert.subject for each in group})
        subject = subjects[0] if len(subjects) == 1 else f"{subjects[0]} and {len(subjects) - 1} others"
        if sink not in self._sinks:
            log.error("alerts about %s were for sink %r, which is no more: they are not told", subject, sink)
            await self._store.delivered(group)
            return
        try:
            await self._sinks[sink].send([each.alert for each in group])
        except Unavailable as error:
            log.warning("sink %r does not take alerts about %s: %s", sink, subject, error)
            if isinstance(error, MessageRefused) and len(subjects) > 1:
                middle = subjects[len(subjects) // 2]
                await self._send(sink, [each for each in group if each.alert.subject < middle])
                await self._send(sink, [each for each in group if each.alert.subject >= middle])
            else:
                await self._not_taken(sink, group, str(error))
            return
        await self._store.delivered(group)

    async def _not_taken(self, sink: str, group: Sequence[Delivery], fault: str) -> None:
        """Try again, the later the more often it was tried, or give up."""
        by_attempts = attrgetter("attempts")
        for attempts, of_these in groupby(sorted(group, key=by_attempts), key=by_attempts):
            some, tries = list(of_these), attempts + 1
            if tries < _MOST_ATTEMPTS:
                wait_ms = _BACKOFF_MS[min(tries, len(_BACKOFF_MS)) - 1]
                await self._store.put_off(some, self._clock.now_ms() + wait_ms, fault)
            else:
                ids = ", ".join(each.alert.id for each in some)
                log.error("sink %r is not told of %s: it was tried %d times", sink, ids, tries)
                await self._store.delivered(some)

    async def alerts(self, subject: str, *, open_only: bool) -> list[HeldAlert]:
        """Return the alerts about a subject, or all where it is empty, newest first."""
        return await self._store.alerts(subject, open_only=open_only)

    async def silence(self, silence: Silence) -> Silence:
        """Begin a silence, and return it with its id.

        Raises:
            BadSilence: it names no subject or a kind that no alert has, or is over already.
            UnknownSubject: no spec has its subject or one of its pattern, nor has an alert that stands.
        """
        if not silence.subject:
            raise BadSilence(
                "subject is empty: name the model, source or table whose alerts are to be silent, or several as in 'trip-*'"
            )
        if silence.until_ms <= self._clock.now_ms():
            raise BadSilence("until is over already: name a time to come")
        if silence.kind and silence.kind not in KINDS:
            raise BadSilence(
                f"kind {silence.kind!r} is none that an alert has: use one of {', '.join(KINDS)}"
            )
        known = {*self._specs.models, *self._specs.sources, *self._specs.tables}
        if not any(map(silence.is_of, known)):
            standing = await self.alerts("" if "*" in silence.subject else silence.subject, open_only=True)
            if not any(silence.is_of(held.alert.subject) for held in standing):
                raise UnknownSubject(silence.subject, known)
        return await self._store.silence(silence)

    async def silences(self) -> list[Silence]:
        """Return the silences that hold."""
        return await self._store.silences(self._clock.now_ms())

    async def end_silence(self, id: int) -> None:
        """End a silence now.

        Raises:
            UnknownSilence: there is none of that id.
        """
        if await self._store.end_silence(id) is None:
            raise UnknownSilence(id)


def _messages(speaking: Sequence[Delivery]) -> list[tuple[str, list[Delivery]]]:
    """Return what each sink is told in one message: what is about one subject, or about all where they are many."""
    found: list[tuple[str, list[Delivery]]] = []
    for sink, of_sink in groupby(speaking, key=lambda it: it.sink):
        together = list(of_sink)
        apart = [list(some) for _, some in groupby(together, key=lambda it: it.alert.subject)]
        found += [(sink, some) for some in (apart if len(apart) <= _MANY else [together])]
    return found
