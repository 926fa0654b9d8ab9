"""Composition root of the feature store: what is opened and started, in which order."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial

from aiokafka import TopicPartition
from trimtab_contracts import topics
from trimtab_contracts.features.v1.features_pb2_grpc import add_FeatureStoreServicer_to_server
from trimtab_runtime import bus, door
from trimtab_runtime.clock import SystemClock
from trimtab_runtime.follow import catch_up
from trimtab_runtime.freshness import Freshness
from trimtab_runtime.pipeline import Pipeline, read_partition
from trimtab_runtime.postgres import open_pool
from trimtab_runtime.reftables import RefTables
from trimtab_runtime.specbook import SpecBook

from trimtab_feature_store.archive import Archive
from trimtab_feature_store.backfill import Backfill
from trimtab_feature_store.config import Config
from trimtab_feature_store.events import EventReader
from trimtab_feature_store.fold import Fold
from trimtab_feature_store.grpc_api import FeatureStoreApi
from trimtab_feature_store.historical import Historical
from trimtab_feature_store.inpostgres import InPostgres
from trimtab_feature_store.joining import Joining
from trimtab_feature_store.online import Home, InMemory, OnlineViews
from trimtab_feature_store.onray import OnRay
from trimtab_feature_store.pins import Pins
from trimtab_feature_store.repartition import Repartition
from trimtab_feature_store.seeding import Seeds
from trimtab_feature_store.skew import Skew
from trimtab_feature_store.slotstore import SlotStore
from trimtab_feature_store.store import DeltaStore
from trimtab_feature_store.upkeep import Upkeep

_OTHERS = 2
"""Connections to PostgreSQL beside those that questions are answered by: one writes, one deletes."""


async def run(config: Config) -> None:
    """Run until cancelled; close in the reverse of the order opened."""
    servers, read = config.kafka_servers, partial(read_partition, config.kafka_servers)

    def make_repartition(place: TopicPartition) -> Repartition:
        return Repartition(book, place.topic, place.partition)

    def make_fold(place: TopicPartition) -> Fold:
        return Fold(book, read, seeds, place.topic, place.partition)

    repartition = Pipeline(
        servers,
        service="feature_store-repartition",
        make_worker=make_repartition,
        max_records=config.max_records,
    )
    fold = Pipeline(
        servers, service="feature_store-fold", make_worker=make_fold, max_records=config.max_records
    )

    async def listen_to_all() -> None:
        views = [view for view in book.views.values() if view.spec.source in book.sources]
        repartition.set_topics({topics.EVENTS.named(view.spec.source).name for view in views})
        fold.set_topics({topics.KEYED.named(view.name).name for view in views})
        online.update()
        references.update()

    book, clock, tables = SpecBook(listen_to_all), SystemClock(), DeltaStore(config.data_dir)
    specs, pins = book.follower(servers), Pins(servers, clock)
    freshness, references = Freshness(clock, config.instance), RefTables(book)
    referring = references.follower(servers)
    async with _home(config) as home, bus.open_producer(servers) as producer:
        online = OnlineViews(servers, book, freshness, home)
        archive = Archive(servers, book, tables, producer, clock)
        seeds = Seeds(read, tables, archive, patience_s=config.patience_s)
        upkeep = Upkeep(
            book,
            tables,
            pins,
            archive.owns,
            clock,
            # Files that are being written belong to no version yet, and are told by their age alone.
            version_hours=max(1, round(config.versions_days * 24)),
            predictions_days=config.predictions_days,
        )
        on_ray = OnRay(config.ray_address, DeltaStore(config.data_dir)) if config.ray_address else None
        historical = Historical(book, tables, archive, references, on_ray.make if on_ray else None)
        api = FeatureStoreApi(
            online,
            historical,
            Joining(book, tables),
            Skew(historical, tables),
            Backfill(book, tables),
            EventReader(book, tables),
            clock,
            patience_s=config.patience_s,
            threads=config.threads,
        )
        register = partial(add_FeatureStoreServicer_to_server, api)
        async with (
            door.serving(
                config.grpc_address,
                register,
                ["trimtab.features.v1.FeatureStore"],
                threads=config.threads,
                max_waiting=config.max_waiting,
            ) as set_ready,
            asyncio.TaskGroup() as tasks,
        ):
            await catch_up(tasks, specs, pins.follower)
            tasks.create_task(repartition.run())
            tasks.create_task(fold.run())
            tasks.create_task(archive.run())
            tasks.create_task(upkeep.run(every_s=config.upkeep_every_s))
            tasks.create_task(online.follower.run())
            tasks.create_task(home.tidy(online.whole))
            tasks.create_task(referring.run())
            tasks.create_task(freshness.publish(topics.METRICS_FEATURES, producer))
            set_ready(True)


@asynccontextmanager
async def _home(config: Config) -> AsyncIterator[Home]:
    """Have a place for the slots of online features: PostgreSQL if there is one, or else this process's memory."""
    if config.online_dsn is None:
        yield InMemory()
        return
    async with open_pool(
        config.online_dsn,
        "feature_store",
        package="trimtab_feature_store",
        size=config.threads + _OTHERS,
    ) as pool:
        yield InPostgres(SlotStore(pool))
