"""Composition root of ingestion: what is opened and started, in which order."""

import asyncio
from functools import partial

from aiokafka import TopicPartition
from trimtab_contracts import topics
from trimtab_contracts.ingestion.v1.ingestion_pb2_grpc import add_IngestionServicer_to_server
from trimtab_runtime import bus, rpc
from trimtab_runtime.clock import SystemClock
from trimtab_runtime.follow import catch_up
from trimtab_runtime.pipeline import Pipeline, read_partition
from trimtab_runtime.specbook import SpecBook

from trimtab_ingestion.config import Config
from trimtab_ingestion.consumers import Ingest
from trimtab_ingestion.grpc_api import IngestionApi
from trimtab_ingestion.heartbeat import beat
from trimtab_ingestion.loader import Loader
from trimtab_ingestion.reading import Schemas
from trimtab_ingestion.schemaregistry import open_registry
from trimtab_ingestion.tablesources import connections
from trimtab_ingestion.tablesources import read as read_table
from trimtab_ingestion.usecases import Contracts


async def run(config: Config) -> None:
    """Run until cancelled; close in the reverse of the order opened."""
    contracts, read, clock = Contracts(), partial(read_partition, config.kafka_servers), SystemClock()
    read_rows = partial(read_table, servers=connections(config.connections or ""))

    made: dict[TopicPartition, Ingest] = {}

    def make_worker(place: TopicPartition) -> Ingest:
        made[place] = Ingest(book, contracts, schemas, read, place.topic, place.partition)
        return made[place]

    def workers() -> list[Ingest]:
        return [made[place] for place in pipeline.assignment if place in made]

    pipeline = Pipeline(
        config.kafka_servers, service="ingestion", make_worker=make_worker, max_records=config.max_records
    )

    def make_loader(place: TopicPartition) -> Loader:
        lead_ms = round(config.table_lead_s * 1000)
        return Loader(book, read_rows, read, clock, place.topic, lead_ms=lead_ms)

    loader = Pipeline(config.kafka_servers, service="ingestion-tables", make_worker=make_loader)

    async def listen_to_all() -> None:
        pipeline.set_topics([topics.RAW.named(name).name for name in book.sources])
        loader.set_topics([topics.TABLES.named(name).name for name in book.tables])

    book = SpecBook(listen_to_all)
    specs = book.follower(config.kafka_servers)
    async with (
        open_registry(config.schema_registry_url) as registry,
        bus.open_producer(config.kafka_servers) as producer,
    ):
        schemas = Schemas(registry)
        register = partial(add_IngestionServicer_to_server, IngestionApi(book, producer, clock))
        async with (
            rpc.serving(config.grpc_address, register, ["trimtab.ingestion.v1.Ingestion"]) as set_ready,
            asyncio.TaskGroup() as tasks,
        ):
            await catch_up(tasks, specs)
            tasks.create_task(pipeline.run())
            tasks.create_task(loader.run())
            tasks.create_task(beat(producer, book, workers))
            await set_ready(True)
