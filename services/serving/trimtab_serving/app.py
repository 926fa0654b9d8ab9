"""Composition root of serving: what is opened and started, in which order.

The event loop's thread is the control plane: it follows Kafka, loads versions and
sends what is to be sent. Requests are answered by the door's threads, from the board,
and never wait for it.
"""

import asyncio
import logging
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from importlib.metadata import version
from typing import Any

from aiokafka.errors import KafkaError
from trimtab_contracts import topics
from trimtab_contracts.serving.v1.serving_pb2_grpc import add_PredictionServicer_to_server
from trimtab_runtime import bus
from trimtab_runtime.clock import SystemClock
from trimtab_runtime.errors import Unavailable
from trimtab_runtime.featurelog import partition_of
from trimtab_runtime.follow import Follower
from trimtab_runtime.specbook import SpecBook
from tritonclient.grpc.service_pb2_grpc import add_GRPCInferenceServiceServicer_to_server

from trimtab_serving import door, grpc_api, oip_api, producers
from trimtab_serving.config import Config
from trimtab_serving.consumers import Features, Wishes
from trimtab_serving.files import ModelFiles
from trimtab_serving.fleet import Fleet
from trimtab_serving.journal import Journal
from trimtab_serving.messages import Messages
from trimtab_serving.meter import Meter
from trimtab_serving.mirror import Mirror
from trimtab_serving.online import OnlineViews
from trimtab_serving.predictionlog import PredictionLog
from trimtab_serving.rows import Readers
from trimtab_serving.snapshot import Board
from trimtab_serving.usecases import Predictions

log = logging.getLogger(__name__)

_MB = 1024 * 1024
_RECONNECT_S = 0.5
_SAVE_S = 1.0
_FAREWELL_S = 3.0
"""How long the end waits for Kafka to take the rest of the log; what it does not take stays in the journal."""


async def run(config: Config) -> None:
    """Run until cancelled; close in the reverse of the order opened."""
    with (
        Mirror(config.state_dir / "mirror", config.mirror_limit_mb * _MB) as mirror,
        Journal(config.state_dir / "log", config.log_limit_mb * _MB) as journal,
    ):
        serving = _Serving(config, mirror, journal)
        async with asyncio.TaskGroup() as tasks:
            for forever in serving.background():
                tasks.create_task(forever)
            await serving.load(tasks)
            try:
                async with door.serving(
                    config.grpc_address,
                    serving.register,
                    [grpc_api.SERVICE, oip_api.SERVICE],
                    threads=config.threads,
                    max_waiting=config.max_waiting,
                ) as set_ready:
                    set_ready(True)
                    await asyncio.Event().wait()
            finally:
                await serving.farewell()


class _Serving:
    """The parts of one instance, put together."""

    def __init__(self, config: Config, mirror: Mirror, journal: Journal) -> None:
        clock = SystemClock()
        self._config, self._mirror, self._clock = config, mirror, clock
        self._board, self._meter = Board(), Meter()
        partitions = topics.PREDICTIONS.partitions
        predictions = PredictionLog(partial(partition_of, partitions=partitions), partitions)
        self._messages = Messages(config.instance, clock)
        self._writer = producers.LogWriter(predictions, journal, self._messages)
        self._watermarks = producers.Watermarks(self._messages)
        self._book = SpecBook()
        self._views = OnlineViews(self._book, mirror.records)
        self._fleet = Fleet(
            self._board, ModelFiles(config.state_dir / "models"), Readers(self._book, self._views).of, self._changed
        )
        self._heartbeat = producers.Heartbeat(self._fleet, self._messages)
        self._wishes = Wishes(mirror, self._book, self._fleet, self._specs_changed)
        features = Features(mirror, self._views, self._features_moved)
        self._wishes_follower = self._wishes.follower(config.kafka_servers)
        self._features_follower = features.follower(config.kafka_servers)
        answers = Predictions(self._board, predictions, self._meter, clock)
        self._doors = (
            partial(add_PredictionServicer_to_server, grpc_api.PredictionApi(answers)),
            partial(
                add_GRPCInferenceServiceServicer_to_server,
                oip_api.InferenceApi(answers, self._board, version("trimtab-serving")),
            ),
        )
