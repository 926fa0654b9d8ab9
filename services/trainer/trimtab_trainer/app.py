"""Composition root of the trainer: what is opened and started, in which order."""

import asyncio
from contextlib import AsyncExitStack
from functools import partial

from trimtab_contracts.training.v1.training_pb2_grpc import add_TrainerServicer_to_server
from trimtab_runtime import artifacts, bus, outbox, rpc
from trimtab_runtime.clock import SystemClock
from trimtab_runtime.follow import catch_up
from trimtab_runtime.postgres import open_pool
from trimtab_runtime.specbook import SpecBook

from trimtab_trainer import mlflow
from trimtab_trainer.changes import Changes
from trimtab_trainer.config import Config
from trimtab_trainer.consumers import Deployments, subscriptions
from trimtab_trainer.grpc_api import TrainerApi
from trimtab_trainer.nursery import Nursery
from trimtab_trainer.orders import Orders
from trimtab_trainer.recorded import Runs
from trimtab_trainer.sandbox import ChildProcess, Files
from trimtab_trainer.store import PostgresStore
from trimtab_trainer.trainingset import FeatureStore
from trimtab_trainer.uploads import Uploads
from trimtab_trainer.usecases.jobs import Jobs


async def run(config: Config) -> None:
    """Run until cancelled; close in the reverse of the order opened."""
    clock = SystemClock()

    async def changed() -> None:
        await changes.wake()

    book, deployments = SpecBook(on_change=changed), Deployments(changed)
    async with (
        AsyncExitStack() as opened,
        open_pool(config.postgres_dsn, "trainer", package="trimtab_trainer") as pool,
        rpc.channel(config.feature_store_address) as channel,
        bus.open_producer(config.kafka_servers) as producer,
    ):
        store, features = PostgresStore(pool), FeatureStore(channel)
        files = Files(artifacts.home(config.artifacts_url, config.data_dir))
        orders = Orders(book, features, producer, clock)
        changes = Changes(store, book, deployments, orders)
        jobs = Jobs(
            store,
            book,
            deployments,
            features,
            ChildProcess(opened.enter_context(Nursery()), config.ray_address),
            files,
            Runs(store),
            clock,
            owner=config.instance,
            lease_ms=round(config.lease_s * 1000),
            patience_ms=round(config.patience_s * 1000),
            folder=config.state_dir / "jobs",
        )
        uploads = Uploads(files, config.state_dir / "uploads")
        register = partial(add_TrainerServicer_to_server, TrainerApi(store, orders, jobs, uploads, clock))
        async with (
            rpc.serving(config.grpc_address, register, ["trimtab.training.v1.Trainer"]) as set_ready,
            asyncio.TaskGroup() as tasks,
        ):
            servers = config.kafka_servers
            await catch_up(tasks, book.follower(servers), deployments.follower(servers))
            tasks.create_task(bus.consume(config.kafka_servers, "trainer", subscriptions(jobs)))
            tasks.create_task(outbox.relay(pool, producer, schema="trainer"))
            tasks.create_task(changes.work())
            if uri := config.mlflow_tracking_uri:
                mirror = mlflow.Mirror(await opened.enter_async_context(mlflow.opened(uri)), deployments)
                tasks.create_task(bus.consume(servers, mlflow.GROUP, mlflow.subscriptions(mirror)))
            for _ in range(config.jobs):
                tasks.create_task(jobs.work())
            await set_ready(True)
