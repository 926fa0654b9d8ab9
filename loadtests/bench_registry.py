"""The registry with as many models as a city has bus stops: what it costs to ask what serves, and to promote.

Asked over gRPC, `GetDeployment` is held against a bare primary-key read that another method of the same server makes
through the same pool; the server is a process of its own. A promotion (the model's lock, the moves, the audit chain and
the outbox, in one transaction) is held against a bare upsert in a transaction of its own, through the same pool, on a
PostgreSQL that waits for the disk. The two of a pair are called in turn; a claim is the median of the rounds' ratios of
medians.
"""

import asyncio
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import asyncpg
import grpc
from google.protobuf.wrappers_pb2 import StringValue
from trimtab_contracts.registry.v1 import registry_pb2 as pb
from trimtab_contracts.registry.v1.registry_pb2_grpc import RegistryStub, add_RegistryServicer_to_server
from trimtab_registry.grpc_api import RegistryApi
from trimtab_registry.store import PostgresStore
from trimtab_registry.testing import a_run, documents
from trimtab_registry.usecases.applying import Specs
from trimtab_registry.usecases.approvals import Approvals
from trimtab_registry.usecases.collecting import Collector, Retention
from trimtab_registry.usecases.contests import Contests
from trimtab_registry.usecases.decisions import Decisions
from trimtab_registry.usecases.deleting import Deleting
from trimtab_registry.usecases.entities import StoredFile
from trimtab_registry.usecases.externals import ExternalChecks
from trimtab_registry.usecases.naming import Names
from trimtab_registry.usecases.roles import Roles
from trimtab_registry.usecases.tags import Tags
from trimtab_runtime import rpc
from trimtab_runtime.artifacts import Removed
from trimtab_runtime.clock import SystemClock
from trimtab_runtime.postgres import open_pool
from trimtab_stack import ports
from trimtab_stack.stack import Stack
from trimtab_stack.wiring import KAFKA_SERVERS, POSTGRES_DSN

MODELS, SCHEMA = 16_000, "bench"
ROUNDS, READS, PROMOTIONS, AT_ONCE = 9, 400, 120, 8
RESOLVING_AT_MOST, PROMOTING_AT_MOST = 4.0, 8.0
BARE = "/bench.Bare/Read"
Call = Callable[[str], Awaitable[Any]]

_MODELS = """
WITH resource AS (
    INSERT INTO resources SELECT 'Model', 'stop-' || n, 1, $1, 'digest', 'bench', now() FROM generate_series(1, $2::int) n
), bare AS (
    INSERT INTO bare SELECT 'stop-' || n, 'a value' FROM generate_series(1, $2::int) n
)
INSERT INTO models (name, generation, changed_at) SELECT 'stop-' || n, 3, now() FROM generate_series(1, $2::int) n
"""
_VERSIONS = """
INSERT INTO versions (model, number, run_id, stage, candidate, gates, loop_id, as_of, created_at)
SELECT name, number, name || '/' || number, (ARRAY['LIVE', 'ON_TRIAL', 'REFUSED'])[number], $1, '[]', 'loop', now(), now()
FROM models, generate_series(1, 3) number
"""
_SERVING = """
WITH live AS (INSERT INTO reigns SELECT name, 1, now() FROM models)
INSERT INTO rollouts (id, model, challenger, strategy, steps, step, phase, generation, opened_at, loop_id)
SELECT name, name, 2, 'canary', '{10,50,100}', 0, 'on_trial', 3, now(), 'loop' FROM models
"""


async def main() -> bool:
    """Measure, print the outcome, and return whether all claims hold."""
    with (
        tempfile.TemporaryDirectory(prefix="trimtab-bench-") as directory,
        Stack(Path(directory), services={}, environ={KAFKA_SERVERS: "none"}) as stack,
    ):
        dsn = stack.environ[POSTGRES_DSN]
        async with open_pool(dsn, SCHEMA, package="trimtab_registry") as pool:
            await fill(pool)
            resolving, listing = await over_grpc(dsn)
            promoting = await rounds(promotions(pool), PROMOTIONS)
            a_second = await promotions_a_second(pool)
    claims = [
        {"claim": "resolving_versus_bare_read", "value": ratio(resolving), "at_most": RESOLVING_AT_MOST},
        {"claim": "promoting_versus_bare_upsert", "value": ratio(promoting), "at_most": PROMOTING_AT_MOST},
    ]
    details = {
        "models": MODELS,
        "resolving": spread(resolving),
        "promoting": spread(promoting),
        "promotions_a_second": {"at_once": AT_ONCE, "of_different_models": a_second},
        **listing,
    }
    print(json.dumps({"bench": "registry", "claims": claims, "details": details}))
    return ratio(resolving) <= RESOLVING_AT_MOST and ratio(promoting) <= PROMOTING_AT_MOST


async def fill(pool: asyncpg.Pool) -> None:
    """Make the models: each with a champion, a challenger on trial and a version that was refused."""
    async with pool.acquire() as connection:
        await connection.execute("CREATE TABLE bare (name text PRIMARY KEY, value text NOT NULL)")
        await connection.execute(_MODELS, json.dumps(documents()[3]), MODELS)
        await connection.execute(_VERSIONS, json.dumps(a_run("run").candidate.document))
        await connection.execute(_SERVING)
        await connection.execute("UPDATE models SET champion = 1, live = 1, rollout = name")
        await connection.execute("VACUUM ANALYZE")


async def over_grpc(dsn: str) -> tuple[list[dict[str, list[float]]], dict[str, Any]]:
    """Measure what a server in a process of its own answers."""
    server = await asyncio.create_subprocess_exec(
        sys.executable, __file__, "serve", dsn, stdout=asyncio.subprocess.PIPE
    )
    assert server.stdout is not None
    address = (await server.stdout.readline()).decode().strip()
    try:
        async with rpc.channel(address) as channel:
            stub: Any = RegistryStub(channel)
            bare = channel.unary_unary(BARE, StringValue.SerializeToString, StringValue.FromString)

            async def resolve(model: str) -> None:
                answer = await stub.GetDeployment(pb.GetDeploymentRequest(model=model))
                assert answer.champion.number == 1 and answer.challenger.number == 2

            async def read(model: str) -> None:
                assert (await bare(StringValue(value=model))).value

            found = await rounds((resolve, read), READS)
            return found, {"list_of_100_models_ms": await pages(stub)}
    finally:
        server.terminate()
        await server.wait()


async def serve(dsn: str) -> None:
    """Be the server: the registry's door, and a bare read beside it."""

    async def nothing(_: Any) -> Any: ...

    async def kept(_: StoredFile, __: int) -> Removed:
        return "newer"

    async with AsyncExitStack() as opened:
        pool = await opened.enter_async_context(open_pool(dsn, SCHEMA, package="trimtab_registry"))
        store, clock, roles = PostgresStore(pool), SystemClock(), Roles()
        api = RegistryApi(
            store,
            Specs(store, nothing, nothing, clock, roles),
            Approvals(store, clock, roles),
            Decisions(store, clock, roles),
            Tags(store, clock),
            Names(store, clock),
            Deleting(store, clock),
            Collector(store, clock, kept, Retention()),
            ExternalChecks(store, clock, roles),
            Contests(store, clock, roles),
        )

        async def read(request: StringValue, _: Any) -> StringValue:
            return StringValue(
                value=await pool.fetchval("SELECT value FROM bare WHERE name = $1", request.value)
            )

        handler = grpc.unary_unary_rpc_method_handler(
            read, StringValue.FromString, StringValue.SerializeToString
        )

        def register(server: grpc.aio.Server) -> None:
            add_RegistryServicer_to_server(api, server)
            server.add_generic_rpc_handlers(
                [grpc.method_handlers_generic_handler("bench.Bare", {"Read": handler})]
            )

        address = f"{ports.LOOPBACK}:{ports.choose()}"
        await opened.enter_async_context(rpc.serving(address, register, []))
        print(address, flush=True)
        await asyncio.Event().wait()


async def pages(stub: Any) -> list[float]:
    """Return the milliseconds that each page of the list of models takes, summed up in quartiles."""
    took, after, more = [], "", True
    while more:
        begun = time.perf_counter()
        answer = await stub.ListModels(pb.ListModelsRequest(after=after, limit=100))
        took.append(1000 * (time.perf_counter() - begun))
        after, more = answer.models[-1].name, answer.more
    assert len(took) == MODELS // 100
    return [round(each, 1) for each in statistics.quantiles(took)]


def promotions(pool: asyncpg.Pool) -> tuple[Call, Call]:
    """Return a promotion and the upsert that it is held against."""
    decisions = Decisions(PostgresStore(pool), SystemClock(), Roles())

    async def promote(model: str) -> None:
        assert (await decisions.promote(model, 2, actor="bench", comment="")).champion == 2

    async def upsert(model: str) -> None:
        await pool.execute(
            "INSERT INTO bare VALUES ($1, $2) ON CONFLICT (name) DO UPDATE SET value = excluded.value",
            model,
            "new",
        )

    return promote, upsert


async def promotions_a_second(pool: asyncpg.Pool) -> list[int]:
    """Return how many promotions of different models end in a second, some at once, round by round."""
    promote, _ = promotions(pool)
    found, models = [], iter(range(ROUNDS * PROMOTIONS + 1, MODELS))

    async def some() -> None:
        for _ in range(PROMOTIONS // 2):
            await promote(f"stop-{next(models)}")

    for _ in range(ROUNDS):
        begun = time.perf_counter()
        await asyncio.gather(*[some() for _ in range(AT_ONCE)])
        found.append(round(AT_ONCE * (PROMOTIONS // 2) / (time.perf_counter() - begun)))
    return found


async def rounds(calls: tuple[Call, Call], count: int) -> list[dict[str, list[float]]]:
    """Time two calls, one after the other, on `count` models a round that no round before had."""
    found = []
    for number in range(ROUNDS):
        took: dict[str, list[float]] = {"ours": [], "bare": []}
        for at in range(count):
            for who, call in zip(took, calls, strict=True):
                begun = time.perf_counter()
                await call(f"stop-{1 + number * count + at}")
                took[who].append(time.perf_counter() - begun)
        found.append(took)
    return found


def ratios(found: list[dict[str, list[float]]]) -> list[float]:
    return [statistics.median(took["ours"]) / statistics.median(took["bare"]) for took in found]


def ratio(found: list[dict[str, list[float]]]) -> float:
    return round(statistics.median(ratios(found)), 2)


def spread(found: list[dict[str, list[float]]]) -> dict[str, Any]:
    """Return medians in milliseconds and their range over the rounds, and the ratios."""
    medians = {who: [1000 * statistics.median(took[who]) for took in found] for who in ("ours", "bare")}
    return {
        "ratios": [round(each, 2) for each in ratios(found)],
        **{
            f"{who}_ms": [round(each, 3) for each in (statistics.median(of), min(of), max(of))]
            for who, of in medians.items()
        },
    }


if __name__ == "__main__":
    if sys.argv[1:2] == ["serve"]:
        asyncio.run(serve(sys.argv[2]))
    else:
        sys.exit(0 if asyncio.run(main()) else 1)
