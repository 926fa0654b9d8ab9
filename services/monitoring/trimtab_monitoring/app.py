"""Composition root of monitoring: what is opened and started, in which order."""

import asyncio
from collections.abc import Iterable, Sequence
from contextlib import AsyncExitStack
from functools import partial

import aiohttp
from trimtab_contracts.monitoring.v1.monitoring_pb2_grpc import add_MonitoringServicer_to_server
from trimtab_runtime import bus, outbox, rpc
from trimtab_runtime.clock import SystemClock
from trimtab_runtime.follow import catch_up
from trimtab_runtime.postgres import open_pool
from trimtab_runtime.specbook import SpecBook

from trimtab_monitoring.alertstore import PostgresAlerts
from trimtab_monitoring.config import Config
from trimtab_monitoring.consumers import Deployments, subscriptions
from trimtab_monitoring.featurestore import FeatureStore
from trimtab_monitoring.flowstore import PostgresFlows
from trimtab_monitoring.grpc_api import MonitoringApi
from trimtab_monitoring.historystore import PostgresHistory
from trimtab_monitoring.intake import Intake
from trimtab_monitoring.news import SOURCE
from trimtab_monitoring.sinks import sinks
from trimtab_monitoring.store import PostgresStore
from trimtab_monitoring.stream import PolicyStream
from trimtab_monitoring.usecases.alerting import Alerting
from trimtab_monitoring.usecases.calibrating import Calibrations
from trimtab_monitoring.usecases.closing import Closing
from trimtab_monitoring.usecases.flowing import Flowing
from trimtab_monitoring.usecases.history import History
from trimtab_monitoring.usecases.ledger import Ledger
from trimtab_monitoring.usecases.ondemand import OnDemand
from trimtab_monitoring.usecases.owning import Moves, Shards
from trimtab_monitoring.usecases.reporting import Reports
from trimtab_monitoring.usecases.retention import Retention
from trimtab_monitoring.usecases.retraining import Retraining
from trimtab_monitoring.usecases.rounds import Rounds
from trimtab_monitoring.usecases.skew import Skews
from trimtab_monitoring.workshop import Workshop

_DAY_MS = 86_400_000


async def run(config: Config) -> None:
    """Run until cancelled; close in the reverse of the order opened."""
    clock, workshop = SystemClock(), Workshop(config.state_dir)
    async with (
        AsyncExitStack() as opened,
        open_pool(config.postgres_dsn, SOURCE, package="trimtab_monitoring") as pool,
        bus.open_producer(config.kafka_servers, linger_ms=0) as producer,
        aiohttp.ClientSession() as session,
    ):
        store, readings = PostgresStore(pool), PostgresHistory(pool)
        reports = Reports(store, workshop)
        shards = Shards()
        rounds = Rounds(shards.owns)

        async def specs_changed() -> None:
            intake.specs_changed()
            moves.specs_changed()
            await deployed(book.models)

        async def deployed(models: Iterable[str]) -> None:
            look_at(list(filter(shards.owns, models)))

        def hold(partitions: Iterable[int], of: int) -> None:
            look_at(shards.hold(partitions, of, book.models))

        def look_at(ours: Sequence[str]) -> None:
            calibrations.prepare(ours)
            rounds.wake_all(ours)

        book = SpecBook(on_change=specs_changed)
        moves = Moves(store, book, shards, clock, rounds.wake)
        deployments = Deployments(store.put_versions, deployed)
        calibrations = Calibrations(
            store, book, deployments, workshop, rounds.wake,
            most_bytes=config.calibration_memory_mb << 20, owns=shards.owns,
        )  # fmt: skip
        retraining = Retraining(store, book, clock)
        closing = Closing(
            store, book, deployments, calibrations, retraining, clock,
            reports=config.data_dir.absolute() / "reports", silent_ms=round(config.silent_s * 1000), on_report=reports.ordered,
        )  # fmt: skip
        retention = Retention(
            store,
            readings,
            book,
            keep_ms=config.keep_days * _DAY_MS,
            history_ms=config.history_days * _DAY_MS,
            owns=shards.owns,
        )
        history, on_demand = History(readings, book), OnDemand(store, book, deployments, workshop)
        told = sinks(config.alert_sinks, config.alert_secret, session, clock)
        alerting = Alerting(PostgresAlerts(pool), book, told, clock)
        flowing = Flowing(
            PostgresFlows(pool), readings, book, clock, history_ms=config.history_days * _DAY_MS
        )
        heard = subscriptions(Ledger(store, clock), rounds.wake, alerting, flowing)
        answering = MonitoringApi(store, book, deployments, calibrations, alerting, history, on_demand)
        api = partial(add_MonitoringServicer_to_server, answering)
        intake = Intake(config.kafka_servers, store, book, producer, moved=moves.moved, hold=hold)
        stream = PolicyStream(config.kafka_servers, retraining, producer, folder=config.state_dir / "faust")
        async with (
            rpc.serving(config.grpc_address, api, ["trimtab.monitoring.v1.Monitoring"]) as set_ready,
            asyncio.TaskGroup() as tasks,
        ):
            servers = config.kafka_servers
            await catch_up(tasks, book.follower(servers), deployments.follower(servers))
            begun = [asyncio.Event() for _ in range(3)]
            tasks.create_task(outbox.relay(pool, producer, schema=SOURCE))
            tasks.create_task(intake.run(begun[0]))
            tasks.create_task(bus.consume(config.kafka_servers, SOURCE, heard, ready=begun[1]))
            tasks.create_task(stream.run(begun[2]))
            tasks.create_task(moves.work())
            tasks.create_task(rounds.work(closing))
            tasks.create_task(calibrations.work())
            tasks.create_task(reports.work())
            tasks.create_task(retention.work())
            tasks.create_task(history.work())
            tasks.create_task(alerting.work())
            tasks.create_task(flowing.work())
            if config.feature_store_address:
                channel = await opened.enter_async_context(rpc.channel(config.feature_store_address))
                skews = Skews(
                    store, book, FeatureStore(channel), clock, every_s=config.skew_every_s, owns=shards.owns
                )
                tasks.create_task(skews.work())
            for event in begun:
                await event.wait()
            await set_ready(True)
