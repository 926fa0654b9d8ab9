"""Composition root of the registry: what is opened and started, in which order."""

import asyncio
import logging
from collections.abc import Sequence
from functools import partial

from trimtab_contracts.registry.v1.registry_pb2_grpc import add_RegistryServicer_to_server
from trimtab_runtime import artifacts, bus, outbox, rpc
from trimtab_runtime.clock import SystemClock
from trimtab_runtime.follow import catch_up
from trimtab_runtime.postgres import open_pool

from trimtab_registry import messages, readback
from trimtab_registry.config import Config
from trimtab_registry.consumers import StatusDoor, provide_topics, subscriptions
from trimtab_registry.formats import schema_faults
from trimtab_registry.grpc_api import RegistryApi
from trimtab_registry.store import PostgresStore
from trimtab_registry.usecases.applying import Specs
from trimtab_registry.usecases.approvals import Approvals
from trimtab_registry.usecases.candidates import Candidates
from trimtab_registry.usecases.collecting import Collector, Retention
from trimtab_registry.usecases.contests import Contests
from trimtab_registry.usecases.decisions import Decisions
from trimtab_registry.usecases.deleting import Deleting
from trimtab_registry.usecases.entities import StoredFile
from trimtab_registry.usecases.externals import ExternalChecks
from trimtab_registry.usecases.naming import Names
from trimtab_registry.usecases.roles import Roles
from trimtab_registry.usecases.tags import Tags
from trimtab_registry.usecases.trials import Fleet, Trials

log = logging.getLogger(__name__)

_NAMES: Sequence[str] = ["trimtab.registry.v1.Registry"]


async def run(config: Config) -> None:
    """Run until cancelled; close in the reverse of the order opened."""
    clock, fleet = SystemClock(), Fleet()
    async with (
        open_pool(config.postgres_dsn, config.schema, package="trimtab_registry") as pool,
        bus.open_producer(config.kafka_servers) as producer,
    ):
        store = PostgresStore(pool)
        provide = partial(provide_topics, config.kafka_servers, config.replication)
        roles = Roles.parse(config.roles)
        retention = Retention.parse(config.artifact_retention, config.artifact_grace)
        specs = Specs(store, provide, schema_faults, clock, roles)
        candidates, trials = Candidates(store, _fetch, clock), Trials(store, fleet, clock)
        approvals = Approvals(store, clock, roles)
        collector = Collector(store, clock, _remove, retention)
        api = RegistryApi(
            store,
            specs,
            approvals,
            Decisions(store, clock, roles),
            Tags(store, clock),
            Names(store, clock),
            Deleting(store, clock),
            collector,
            ExternalChecks(store, clock, roles),
            Contests(store, clock, roles),
        )
        register = partial(add_RegistryServicer_to_server, api)
        async with (
            rpc.serving(config.grpc_address, register, _NAMES) as set_ready,
            asyncio.TaskGroup() as tasks,
        ):
            if healed := await readback.heal(store, await readback.last_words(config.kafka_servers)):
                log.warning("told again what was not told last: %s", ", ".join(healed))
                await specs.provide_all()
            tasks.create_task(outbox.relay(pool, producer, schema=config.schema))
            door = StatusDoor(fleet, trials)
            await catch_up(tasks, door.follower(config.kafka_servers))
            await door.become_current()
            heard = asyncio.Event()
            heard_topics = subscriptions(candidates, trials)
            tasks.create_task(bus.consume(config.kafka_servers, config.schema, heard_topics, ready=heard))
            await heard.wait()
            tasks.create_task(approvals.keep_time())
            tasks.create_task(collector.keep_sweeping(config.collect_every_s))
            await set_ready(True)


async def _remove(file: StoredFile, older_than_ms: int) -> artifacts.Removed:
    return await asyncio.to_thread(artifacts.remove, file.uri, older_than_ms=older_than_ms)


async def _fetch(file: StoredFile) -> bytes:
    return await asyncio.to_thread(artifacts.fetch, messages.artifact(file))
