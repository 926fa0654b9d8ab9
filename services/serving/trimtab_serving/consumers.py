"""Kafka door of serving, inwards: the topics that everyone reads.

Each record goes to two places: the local copy, which a restart reads, and memory,
which requests are answered from. At the start the copy is played into memory through
the same functions, so what is answered with Kafka away is what would be with it.
"""

import logging
from collections.abc import Callable, Collection, Sequence
from typing import Any

from trimtab_contracts import topics
from trimtab_contracts.registry.v1.registry_pb2 import Deployment, VersionRef
from trimtab_runtime.follow import Follower
from trimtab_runtime.freshness import Freshness
from trimtab_runtime.reftables import RefTables
from trimtab_runtime.specbook import SpecBook, from_message

from trimtab_serving.files import StoredFile
from trimtab_serving.fleet import Fleet, Ref, Wanted
from trimtab_serving.mirror import Mirror, keyed, traceparent_of
from trimtab_serving.online import OnlineViews
from trimtab_serving.routing import Arms

FOLLOWS = (topics.SPECS, topics.DEPLOYMENTS, topics.FEATURES, topics.TABLES)

log = logging.getLogger(__name__)


class Wishes:
    """Hears `specs` and `deployments`: what is to be served, and how."""

    def __init__(
        self,
        mirror: Mirror,
        book: SpecBook,
        fleet: Fleet,
        on_specs: Callable[[], None],
        only: Collection[str] | None = None,
    ) -> None:
        """`on_specs` is called after each change of the book; only specs of `only`, as Kind/name, are for this process."""
        self._mirror = mirror
        self._book = book
        self._fleet = fleet
        self._on_specs = on_specs
        self._only = None if only is None else frozenset(only)

    def follower(self, servers: str) -> Follower:
        """Return the follower that hears them; run it as a task."""
        return Follower(
            servers, [topics.SPECS.name, topics.DEPLOYMENTS.name], self.hear, start=self._mirror.offsets()
        )

    def replay(self) -> bool:
        """Take in the local copy, and return whether there was any."""
        stored = [*self._mirror.records(topics.SPECS.name), *self._mirror.records(topics.DEPLOYMENTS.name)]
        for record in stored:
            self._take(record.topic, record.key, record.value, record.traceparent)
        self._on_specs()
        return bool(stored)

    async def hear(self, topic: str, partition: int, records: Sequence[Any]) -> None:
        """Take in raw records of either topic."""
        records = [record for record in keyed(records) if self._is_ours(topic, record.key)]
        if not records:
            return
        for record in records:
            self._take(topic, record.key, record.value, traceparent_of(record))
        self._mirror.put(topic, partition, records)
        if topic == topics.SPECS.name:
            self._on_specs()
        await self._mirror.save()  # rare, and what a restart could not do without

    def _is_ours(self, topic: str, key: bytes) -> bool:
        name = key.decode(errors="replace")
        return self._only is None or (name if topic == topics.SPECS.name else f"Model/{name}") in self._only

    def _take(self, topic: str, key: bytes, value: bytes | None, traceparent: str | None) -> None:
        try:
            if topic == topics.SPECS.name:
                self._take_spec(key, value)
            elif value is None:
                self._fleet.forget(key.decode())
            else:
                self._fleet.want(_wanted(topics.DEPLOYMENTS.decode(value), traceparent))
        except (ValueError, KeyError) as error:
            # One record that cannot be read must not keep every other from being served.
            log.error("record %r of %s cannot be read: %s", key, topic, error)

    def _take_spec(self, key: bytes, value: bytes | None) -> None:
        kind, _, name = key.decode().partition("/")
        if value is None:
            self._book.remove(kind, name)
        else:
            resource = topics.SPECS.decode(value)
            self._book.put(from_message(resource), resource.generation)


class Features:
    """Hears `features.*`: the online state of every view."""

    def __init__(
        self,
        mirror: Mirror,
        views: OnlineViews,
        freshness: Freshness,
        on_watermark: Callable[[str, int], None],
    ) -> None:
        """`on_watermark` hears of a view and how far it has come, when that moves."""
        self._mirror = mirror
        self._views = views
        self._freshness = freshness
        self._on_watermark = on_watermark

    def follower(self, servers: str) -> Follower:
        """Return the follower that hears it, of no topic at first; run it as a task."""
        return Follower(servers, [], self.hear, start=self._mirror.offsets())

    async def hear(self, topic: str, partition: int, records: Sequence[Any]) -> None:
        """Take in raw records of a view's topic."""
        moved = self._views.apply(topic, partition, keyed(records))
        self._freshness.note(topics.FEATURES.member(topic), records)
        self._mirror.put(topic, partition, records)
        if moved is not None:
            self._on_watermark(*moved)


class Tables:
    """Hears `tables.*`: the history of every reference table."""

    def __init__(self, mirror: Mirror, tables: RefTables, on_another: Callable[[], None]) -> None:
        """`on_another` is called when a table can be asked for what it could not be before."""
        self._mirror = mirror
        self._tables = tables
        self._on_another = on_another

    def follower(self, servers: str) -> Follower:
        """Return the follower that hears it, of no topic at first; run it as a task."""
        return Follower(servers, [], self.hear, start=self._mirror.offsets())

    async def hear(self, topic: str, partition: int, records: Sequence[Any]) -> None:
        """Take in raw records of a table's topic."""
        is_another = self._tables.apply(topic, keyed(records))
        self._mirror.put(topic, partition, records)
        if is_another:
            self._on_another()


def _wanted(deployment: Deployment, traceparent: str | None) -> Wanted:
    rollout = deployment.rollout
    among = [(arm.number, arm.share) for arm in rollout.arms]
    return Wanted(
        model=deployment.model,
        generation=deployment.generation,
        champion=_ref(deployment.champion) if deployment.HasField("champion") else None,
        challenger=_ref(deployment.challenger) if deployment.HasField("challenger") else None,
        previous=_ref(deployment.previous) if deployment.HasField("previous") else None,
        others=tuple(_ref(each) for each in deployment.others),
        arms=Arms.of(rollout.id, rollout.strategy, rollout.share, among),
        loop_id=deployment.loop_id,
        traceparent=traceparent,
    )


def _ref(version: VersionRef) -> Ref:
    reference = version.reference
    return Ref(
        version.number,
        tuple(version.features),
        StoredFile(version.model.uri, version.model.digest),
        StoredFile(reference.uri, reference.digest) if reference.digest else None,
        tuple(version.classes),
        tuple(version.texts),
    )
