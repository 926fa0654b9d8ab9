"""Online reads: 10 features of 10 entities at a time, from the feature store, beside `feast serve`, and in process.

The feature store answers over gRPC and Feast's server over HTTP, which is its own way; each is one process on the same
core, asked in turn by a client on another core, a Python one for both, whose own share of a core is told. A second feature
store has its slots in PostgreSQL. In process is what serving does: values computed once and kept until the hop's boundary.
"""

import asyncio
import http.client
import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from typing import Any

import grpc
import numpy as np
from features_stream import ENTITY, SPECS
from load import ask, grpc_client, ratios, start, summary
from numpy.typing import NDArray
from serving_client import write_bodies
from stream import BEGIN, HOUR, PARTITIONS, VIEW, ZONES, Rows
from trimtab import project
from trimtab.replay import Watermarks
from trimtab_contracts import topics
from trimtab_contracts.features.v1.features_pb2 import (
    EntityColumn,
    GetOnlineFeaturesRequest,
    GetOnlineFeaturesResponse,
)
from trimtab_core import specs
from trimtab_runtime import bus
from trimtab_runtime.clock import iso, to_timestamp
from trimtab_runtime.onlineview import OnlineView
from trimtab_runtime.pipeline import read_partition
from trimtab_stack import environment, ports
from trimtab_stack.stack import Stack

Floats = NDArray[np.float64]
HERE = Path(__file__).parent
ROUNDS, SECONDS = 5, 2.0
CONCURRENCY, CHANNELS = 16, 4
ENTITIES, REQUESTS = 10, 500
ROWS = 5_000
IN_PROCESS_S, PATIENCE_S = 0.5, 180.0
RATE = "requests_per_second"
METHOD, FEAST_PATH = "/trimtab.features.v1.FeatureStore/GetOnlineFeatures", "/get-online-features"
AT_LEAST, IN_PROCESS_AT_LEAST, P99_AT_MOST = 4.0, 50.0, 0.2


async def versus_feast(
    stack: Stack, peers: Path, directory: Path
) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """Return the claims, and what was measured. The source and the view are applied, and ingestion runs."""
    at_ms = await fill(stack)
    view = await read_back(stack)
    rng = np.random.default_rng(3)
    asked = [rng.choice(np.arange(1, ZONES + 1), ENTITIES, replace=False).tolist() for _ in range(REQUESTS)]
    trimtab_bodies, feast_bodies = directory / "trimtab", directory / "feast"
    write_bodies(trimtab_bodies, [request(zones, at_ms) for zones in asked])
    write_bodies(feast_bodies, [feast_request(view, zones) for zones in asked])
    store_at, stored_at, feast_at = (f"{ports.LOOPBACK}:{ports.choose()}" for _ in range(3))
    server_core, *_, client_core = sorted(os.sched_getaffinity(0))
    ours, stored = (
        grpc_client(address, METHOD, trimtab_bodies, SECONDS, CONCURRENCY, CHANNELS)
        for address in (store_at, stored_at)
    )
    theirs = [sys.executable, str(HERE / "http_client.py"), feast_at, FEAST_PATH, str(feast_bodies)]
    theirs += [str(SECONDS), str(CONCURRENCY)]
    rounds: dict[str, list[dict[str, float]]] = {
        "trimtab": [],
        "in_postgresql": [],
        "feast": [],
        "in_process": [],
    }
    stack.stop_service("feature_store")
    in_postgresql = {"TRIMTAB_ONLINE_DSN": stack.environ["TRIMTAB_POSTGRES_DSN"]}
    with (
        feature_store(stack, store_at, server_core) as store,
        feature_store(stack, stored_at, server_core, in_postgresql) as in_store,
        feast(view, at_ms, peers, directory / "repository", feast_at, server_core) as server,
    ):
        for address in (store_at, stored_at):
            compare(view, at_ms, asked[0], address, feast_at)
        for _ in range(ROUNDS):
            rounds["trimtab"].append(ask(store.pid, ours, client_core))
            rounds["in_postgresql"].append(ask(in_store.pid, stored, client_core))
            rounds["feast"].append(ask(server.pid, theirs, client_core))
            rounds["in_process"].append(in_process(view, at_ms, asked))
    return claims(rounds), {
        "entities": ENTITIES,
        "features": list(view.spec.columns()),
        "concurrency": CONCURRENCY,
        "trimtab": summary(rounds["trimtab"]),
        "in_postgresql": summary(rounds["in_postgresql"]),
        "feast": summary(rounds["feast"]),
        "in_process_requests_per_second": [round(each[RATE]) for each in rounds["in_process"]],
    }


def claims(rounds: Mapping[str, Sequence[Mapping[str, float]]]) -> list[dict[str, Any]]:
    """Return the claims: medians over the rounds of one figure over the other."""
    feast = rounds["feast"]
    faster = median(ratios(rounds["trimtab"], feast, RATE))
    slowest = median(ratios(rounds["trimtab"], feast, "p99_ms"))
    within = median(ratios(rounds["in_process"], feast, RATE))
    failures = sum(
        each["failures"] for kind in ("trimtab", "in_postgresql", "feast") for each in rounds[kind]
    )
    return [
        {"claim": "online_versus_feast", "value": round(faster, 2), "at_least": AT_LEAST},
        {"claim": "online_p99_share", "value": round(slowest, 3), "at_most": P99_AT_MOST},
        {"claim": "in_process_versus_feast", "value": round(within, 1), "at_least": IN_PROCESS_AT_LEAST},
        {"claim": "online reads that failed", "value": failures, "at_most": 0},
    ]


async def fill(stack: Stack) -> int:
    """Send an hour of rows, later than all others; return the boundary at which they are in the features."""
    servers = stack.environ["TRIMTAB_KAFKA_SERVERS"]
    watermarks = Watermarks(servers)
    async with bus.open_producer(servers) as producer, asyncio.TaskGroup() as tasks:
        following = tasks.create_task(watermarks.follower.run())
        rows = Rows(producer, BEGIN + 10 * 24 * HOUR)
        await rows.send(ROWS)
        await watermarks.wait("features", VIEW, rows.until_ms, partitions=PARTITIONS)
        following.cancel()
    return rows.until_ms


async def read_back(stack: Stack) -> OnlineView:
    """Return the view's online state as serving holds it."""
    source, view = project.parse(SPECS).resources
    assert isinstance(source, specs.Source)
    assert isinstance(view, specs.FeatureView)
    held = OnlineView(view, source, generation=1)
    for partition in range(PARTITIONS):
        topic = topics.FEATURES.named(VIEW).name
        async for batch in read_partition(stack.environ["TRIMTAB_KAFKA_SERVERS"], topic, partition):
            held.apply(partition, batch)
    return held


def request(zones: Sequence[int], at_ms: int) -> bytes:
    """Return what is asked of the feature store."""
    column = EntityColumn(field=ENTITY, values=map(str, zones))
    asked = GetOnlineFeaturesRequest(features=[f"{VIEW}.*"], entities=[column], at=to_timestamp(at_ms))
    return asked.SerializeToString()


def answered(body: bytes) -> Floats:
    """Return the values [entities, features] of an answer of the feature store."""
    answer = GetOnlineFeaturesResponse.FromString(body)
    return np.array(answer.values).reshape(-1, len(answer.names))


def feast_request(view: OnlineView, zones: Sequence[int]) -> bytes:
    """Return what is asked of Feast."""
    features = [f"zones:{name}" for name in view.spec.columns()]
    return json.dumps({"features": features, "entities": {"zone": list(zones)}}).encode()


def feast_answered(body: bytes, features: Sequence[str]) -> Floats:
    """Return the values [entities, features] of an answer of Feast."""
    answer = json.loads(body)
    names = answer["metadata"]["feature_names"]
    found = dict(zip(names, (each["values"] for each in answer["results"]), strict=True))
    return np.array([found[name] for name in features], np.float64).T


def compare(view: OnlineView, at_ms: int, zones: Sequence[int], trimtab_at: str, feast_at: str) -> None:
    """See that all three give the same answer."""
    expected = view.values([str(zone) for zone in zones], [at_ms] * len(zones))
    with grpc.insecure_channel(trimtab_at, options=[("grpc.enable_http_proxy", 0)]) as channel:
        ask: grpc.UnaryUnaryMultiCallable[bytes, bytes] = channel.unary_unary(METHOD)
        answer = ask(request(zones, at_ms), timeout=PATIENCE_S, wait_for_ready=True)
    np.testing.assert_allclose(answered(answer), expected, rtol=1e-9)
    connection = http.client.HTTPConnection(feast_at, timeout=30)
    headers = {"Content-Type": "application/json"}
    connection.request("POST", FEAST_PATH, feast_request(view, zones), headers)
    body = connection.getresponse().read()
    np.testing.assert_allclose(feast_answered(body, view.spec.columns()), expected, rtol=1e-9)


@contextmanager
def feature_store(
    stack: Stack, address: str, core: int, settings: Mapping[str, str] | None = None
) -> Iterator[subprocess.Popen[bytes]]:
    """Run a feature store as Feast's server is run, in our session and on its core, in place of the stack's."""
    environ = environment.inherited() | stack.environ | dict(settings or {})
    environ |= {"TRIMTAB_GRPC_ADDRESS": address, "TRIMTAB_DATA_DIR": str(stack.directory / "data")}
    server = start([sys.executable, "-m", "trimtab_feature_store"], environ, core)
    try:
        yield server
    finally:
        server.kill()
        server.wait()


@contextmanager
def feast(
    view: OnlineView, at_ms: int, peers: Path, repository: Path, address: str, core: int
) -> Iterator[subprocess.Popen[bytes]]:
    """Serve the same values with Feast: one worker, never restarted, no access log."""
    zones = list(range(1, ZONES + 1))
    values = view.values([str(zone) for zone in zones], [at_ms] * ZONES)
    told = {
        "time": iso(at_ms),
        "entities": zones,
        "features": dict(zip(view.spec.columns(), values.T.tolist(), strict=True)),
    }
    environ = environment.inherited() | {"FEAST_USAGE": "False", "HOME": str(repository.parent)}
    made = [str(peers), "-W", "ignore", str(HERE / "feast_online.py"), str(repository)]
    subprocess.run(made, input=json.dumps(told), text=True, check=True, env=environ)
    host, port = address.split(":")
    command = [str(peers.with_name("feast")), "-c", str(repository), "serve", "--host", host, "--port", port]
    command += ["--no-access-log", "--max-requests", "0", "--max-requests-jitter", "0"]
    server = start(command, environ, core)
    try:
        until_answers(address)
        yield server
    finally:
        server.terminate()  # it ends its worker too
        server.wait()


def until_answers(address: str) -> None:
    """Wait for an HTTP server."""
    host, port = address.split(":")
    deadline = time.monotonic() + PATIENCE_S
    while True:
        try:
            with socket.create_connection((host, int(port)), timeout=1):
                return
        except OSError:
            if time.monotonic() > deadline:
                raise
        time.sleep(0.1)


def in_process(view: OnlineView, at_ms: int, asked: Sequence[Sequence[int]]) -> dict[str, float]:
    """Return how many reads a second a process makes of what it holds."""
    entities = [[str(zone) for zone in zones] for zones in asked]
    at = [at_ms] * ENTITIES
    count, begun = 0, time.perf_counter()
    while (elapsed := time.perf_counter() - begun) < IN_PROCESS_S:
        for each in entities:
            view.values(each, at)
        count += len(entities)
    return {RATE: count / elapsed}
