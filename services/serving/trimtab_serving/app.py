"""Composition root of serving: what is opened and started, in which order.

The event loop's thread is the control plane: it follows Kafka, loads versions and
sends what is to be sent. Requests are answered by the door's threads, from the board,
and never wait for it.
"""

import asyncio
import logging
from collections.abc import Callable, Collection, Coroutine, Sequence
from contextlib import closing, suppress
from functools import partial
from importlib import metadata
from pathlib import Path
from typing import Any

from aiokafka.errors import KafkaError
from trimtab_contracts import topics
from trimtab_contracts.serving.v1.serving_pb2_grpc import add_PredictionServicer_to_server
from trimtab_runtime import bus, door
from trimtab_runtime.clock import SystemClock
from trimtab_runtime.errors import Rejected, Unavailable
from trimtab_runtime.featurelog import partition_of
from trimtab_runtime.follow import Follower
from trimtab_runtime.freshness import Freshness
from trimtab_runtime.lifecycle import run_loaded
from trimtab_runtime.pool import Pool
from trimtab_runtime.reftables import RefTables
from trimtab_runtime.specbook import SpecBook
from tritonclient.grpc.service_pb2_grpc import add_GRPCInferenceServiceServicer_to_server

from trimtab_serving import grpc_api, oip_api
from trimtab_serving.alone import Home, unpack
from trimtab_serving.cache import SessionCache
from trimtab_serving.config import Config
from trimtab_serving.consumers import Features, Tables, Wishes
from trimtab_serving.engines import Engine, OnnxEngine
from trimtab_serving.explaining import Explanations
from trimtab_serving.files import ModelFiles
from trimtab_serving.fleet import Fleet
from trimtab_serving.journal import Journal
from trimtab_serving.messages import Messages
from trimtab_serving.meter import Meter
from trimtab_serving.mirror import Mirror
from trimtab_serving.online import OnlineViews
from trimtab_serving.predictionlog import PredictionLog
from trimtab_serving.producers import Gauge, Heartbeat, LogWriter, Watermarks, measure
from trimtab_serving.rows import Readers
from trimtab_serving.snapshot import Board
from trimtab_serving.streaming import Streams
from trimtab_serving.triton import BACKENDS, TritonEngine
from trimtab_serving.usecases import Predictions
from trimtab_serving.workers import supervise

log = logging.getLogger(__name__)

_MB = 1024 * 1024
_FLUSH_S = 0.02
_SAVE_S = 1.0
_RECONNECT_S = 1.0
_FAREWELL_S = 2.0
"""How long the end waits for Kafka to take the rest of the log; what it does not take stays in the journal."""


async def run(config: Config) -> None:
    """Run until cancelled, as several workers where that is asked."""
    if config.workers < 1:
        raise Rejected(f"TRIMTAB_SERVING_WORKERS is {config.workers}: it takes one or more")
    if config.workers > 1:
        await supervise(config, work)
    else:
        await run_one(config)


def work(config: Config) -> None:
    """Be one of several workers, until told to end."""
    run_loaded("serving", config, partial(run_one, shares_port=True))


async def run_one(config: Config, *, shares_port: bool = False) -> None:
    """Run until cancelled; close in the reverse of the order opened."""
    await _run(config, Home.of(config), shares_port=shares_port)


async def run_alone(bundle: Path, key: bytes | None, config: Config) -> None:
    """Run from a bundle until cancelled; without Kafka in the settings with nothing else around.

    Raises:
        NotFound, BadBundle: it is not there, or not what was signed with `key`; without one no signature is asked for.
    """
    await _run(config, unpack(bundle, key, config), shares_port=False)


async def _run(config: Config, home: Home, *, shares_port: bool) -> None:
    with (
        Mirror(home.mirror, config.mirror_limit_mb * _MB) as mirror,
        Journal(config.state_dir / "log", config.log_limit_mb * _MB) as journal,
        closing(_engine(config)) as engine,
    ):
        await _serve(config, home, mirror, journal, engine, shares_port=shares_port)


def _engine(config: Config) -> Engine:
    if not config.triton_address:
        return OnnxEngine()
    if config.triton_backend not in BACKENDS:
        raise Rejected(
            f"TRIMTAB_SERVING_TRITON_BACKEND is {config.triton_backend!r}: it is one of {', '.join(BACKENDS)}"
        )
    return TritonEngine(config.triton_address, config.triton_backend, config.instance)


async def _serve(
    config: Config, home: Home, mirror: Mirror, journal: Journal, engine: Engine, *, shares_port: bool
) -> None:
    clock, board, meter, book = SystemClock(), Board(), Meter(), SpecBook()
    threads = Pool(config.threads)
    messages = Messages(config.instance, clock)
    partitions = topics.PREDICTIONS.partitions
    predictions = PredictionLog(partial(partition_of, partitions=partitions), partitions)
    writer, watermarks = LogWriter(board, predictions, journal, messages), Watermarks(messages)
    freshness = Freshness(clock, config.instance)

    def board_changed(models: Collection[str]) -> None:
        heartbeat.changed(models)
        writer.features_moved(models)

    def features_moved(view: str, until_ms: int) -> None:
        watermarks.move(view, until_ms)
        writer.features_moved(board.current.served)

    def inputs_changed() -> None:
        fleet.know(book.models)

    def specs_changed() -> None:
        features.set_topics(views.update())
        tables.set_topics(references.update())
        streams.update()
        inputs_changed()

    views, references = OnlineViews(book, mirror.records, inputs_changed), RefTables(book, mirror.records)
    readers = Readers(book, views, references)
    cache = SessionCache(engine, config.model_memory_mb * _MB)
    fleet = Fleet(
        board,
        ModelFiles(home.models),
        cache,
        readers.of,
        board_changed,
        always_warm=frozenset(config.always_warm.split(",")),
    )
    heartbeat = Heartbeat(fleet, messages)
    streams = Streams(config.kafka_servers, book, board, fleet.wants, meter, clock)
    features = Features(mirror, views, freshness, features_moved).follower(config.kafka_servers)
    tables = Tables(mirror, references, inputs_changed).follower(config.kafka_servers)
    wishes = Wishes(mirror, book, fleet, specs_changed, home.only)
    wanted = wishes.follower(config.kafka_servers)
    has_copy = wishes.replay()
    for view, until_ms in views.reached().items():
        features_moved(view, until_ms)

    heard = [wanted, features, tables] if config.kafka_servers else []
    async with asyncio.TaskGroup() as tasks:
        for follower in heard:
            tasks.create_task(follower.run())
        tasks.create_task(_every(_SAVE_S, mirror.save))
        await _catch_up(heard, config.catch_up_s if has_copy else None)
        await fleet.settled()
        await mirror.save()
        tasks.create_task(fleet.run())
        tasks.create_task(_every(_FLUSH_S, writer.flush))
        said: list[Callable[[Any], Coroutine[Any, Any, None]]] = [
            writer.ship,
            heartbeat.beat,
            watermarks.publish,
            partial(measure, meter, Gauge(threads, fleet, cache, mirror), messages, clock),
            partial(freshness.publish, topics.METRICS_FEATURES),
        ]
        if config.kafka_servers:
            tasks.create_task(_speak(config.kafka_servers, said))
        if home.only is None:  # events are for those that are always there
            tasks.create_task(streams.run())
        answers = Predictions(board, predictions, meter, clock)
        try:
            async with door.serving(
                config.grpc_address,
                partial(register, answers, board),
                [grpc_api.SERVICE, oip_api.SERVICE],
                threads=threads,
                max_waiting=config.max_waiting,
                shares_port=shares_port,
            ) as set_ready:
                board.ready = True
                set_ready(True)
                await asyncio.Event().wait()
        finally:
            await writer.flush()
            with suppress(TimeoutError):
                async with asyncio.timeout(_FAREWELL_S if config.kafka_servers else 0):
                    await writer.shipped()


def register(answers: Predictions, board: Board, server: Any) -> None:
    """Add both doors to a server."""
    add_PredictionServicer_to_server(grpc_api.PredictionApi(answers, Explanations(board)), server)
    inference = oip_api.InferenceApi(answers, board, metadata.version("trimtab-serving"))
    add_GRPCInferenceServiceServicer_to_server(inference, server)


async def _catch_up(followers: Sequence[Follower], patience_s: float | None) -> None:
    """Wait until all that Kafka holds has been read; with a local copy, no longer than `patience_s`."""
    try:
        async with asyncio.timeout(patience_s):
            for follower in followers:
                await follower.caught_up()
    except TimeoutError:
        log.warning("Kafka has no news after %s s: answering from the local copy", patience_s)


async def _every(seconds: float, action: Callable[[], Coroutine[Any, Any, None]]) -> None:
    while True:
        await asyncio.sleep(seconds)
        await action()


async def _speak(servers: str, loops: Sequence[Callable[[Any], Coroutine[Any, Any, None]]]) -> None:
    """Run `loops` with a producer, and with a new one whenever Kafka was away for too long."""
    while True:
        try:
            producer = await bus.start_producer(servers)
        except Unavailable as error:
            log.warning("nothing can be said: %s", error)
            await asyncio.sleep(_RECONNECT_S)
            continue
        try:
            async with asyncio.TaskGroup() as tasks:
                for loop in loops:
                    tasks.create_task(loop(producer))
                await asyncio.Event().wait()
        except* KafkaError as faults:
            log.warning("Kafka did not take what was said, and is told again: %s", faults.exceptions)
        finally:
            with suppress(TimeoutError):
                async with asyncio.timeout(_FAREWELL_S):
                    await producer.stop()
        if (task := asyncio.current_task()) is not None and task.cancelling():
            raise asyncio.CancelledError  # a group of tasks lets a fault of one of them go before it
        await asyncio.sleep(_RECONNECT_S)
