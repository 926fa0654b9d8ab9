"""What Trimtab's serving costs, beside a plain threaded gRPC server that only calls ONNX Runtime.

Both are processes of their own on the same core, with the same model, stubs and number of threads; one client on
another core asks them in turn, round by round, so that whatever else the machine does meets both alike. Trimtab routes,
logs every prediction to a real Kafka and counts; the plain server rests while it is asked, and it is stopped while the
plain server is. The claim is the median over the rounds of one rate over the other.
"""

import asyncio
import json
import logging
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import onnxruntime
from load import ask, grpc_client, pin, ratios, start, stopped, summary
from serving_client import write_bodies
from skl2onnx import to_onnx
from sklearn.ensemble import HistGradientBoostingRegressor
from trimtab_contracts import topics
from trimtab_contracts.registry.v1.registry_pb2 import Rollout, VersionRef
from trimtab_contracts.serving.v1.serving_pb2 import PredictRequest
from trimtab_core import specs
from trimtab_core.slots import FoldState, Layout
from trimtab_runtime import admin, artifacts, bus, records
from trimtab_runtime.clock import iso
from trimtab_runtime.records import Outgoing
from trimtab_serving import testing
from trimtab_stack import environment, ports
from trimtab_stack.kafka import Kafka
from tritonclient.grpc import service_pb2 as pb2

HERE = Path(__file__).parent
ROUNDS, SECONDS = 6, 1.5
CONCURRENCY, CHANNELS, THREADS = 32, 4, 4
AT_LEAST = 0.7
RATE = "requests_per_second"
INFER, PREDICT = "/inference.GRPCInferenceService/ModelInfer", "/trimtab.serving.v1.Prediction/Predict"
DAY = 86_400_000
MIDNIGHT = 19_700 * DAY
FIELDS = [f"f{number}" for number in range(12)]
ZONES = 100


def project() -> tuple[list[specs.Source | specs.FeatureView | specs.Model], tuple[str, ...]]:
    """Return what is applied, and the 20 features of the model: 12 of the request, two of the clock, six of a view."""
    row: dict[str, Any] = {"id": {"type": "string"}, "at": {"type": "timestamp"}, "zone": {"type": "integer"}}
    source = {"key": "id", "event_time": "at", "lateness": "1h"}
    asked = {**source, "fields": row | {name: {"type": "number"} for name in FIELDS}}
    told = {**source, "fields": row | {"speed": {"type": "number"}, "label": {"type": "number"}}}
    aggregates = [{"field": "speed", "functions": ["mean", "max", "stddev"], "windows": ["1d", "2d"]}]
    view = {"source": "told", "entity": "zone", "aggregates": aggregates, "hop": "6h", "ttl": "9d"}
    features = [*(f"request.{name}" for name in FIELDS), "hour(at)", "weekday(at)", "zones.*"]
    model = {
        "task": "regression",
        "source": "asked",
        "features": features,
        "label": {"source": "told", "on": "id", "value": "label", "within": "1h"},
        "trainer": {"window": "9d"},
        "rollout": {"cap": 9},
    }
    made = [
        specs.parse(kind, {"metadata": {"name": name}, "spec": spec})
        for kind, name, spec in (
            ("Source", "asked", asked),
            ("Source", "told", told),
            ("FeatureView", "zones", view),
            ("Model", "model", model),
        )
    ]
    columns = specs.FeatureViewSpec.model_validate(view).columns()
    return made, (*features[:-1], *(f"zones.{column}" for column in columns))


def train(rng: np.random.Generator, seed: int) -> bytes:
    """Return a model of 100 boosted trees over 20 features, as ONNX."""
    features = rng.normal(size=(20_000, 20)).astype(np.float32)
    label = 3 * features[:, 0] + features[:, 1] * features[:, 2] + rng.normal(size=20_000)
    fitted = HistGradientBoostingRegressor(max_iter=100, random_state=seed).fit(features, label)
    graph = to_onnx(fitted, features[:1], target_opset=18)
    taken = graph.graph.input[0].name
    for node in graph.graph.node:
        node.input[:] = ["features" if name == taken else name for name in node.input]
    graph.graph.input[0].name = "features"
    return bytes(graph.SerializeToString())


def infer_bodies(rng: np.random.Generator) -> list[bytes]:
    """Return requests of one row each, with the key and the time that make them part of rollouts and of the log."""
    bodies = []
    for number in range(500):
        request = pb2.ModelInferRequest(model_name="model", id=str(number))
        request.inputs.add(name="features", datatype="FP32", shape=[1, 20])
        request.inputs.add(name="key", datatype="BYTES", shape=[1])
        request.inputs.add(name="event_time_ms", datatype="INT64", shape=[1])
        key = f"key-{number}".encode()
        request.raw_input_contents.append(rng.normal(size=20).astype(np.float32).tobytes())
        request.raw_input_contents.append(len(key).to_bytes(4, "little") + key)
        request.raw_input_contents.append((MIDNIGHT + DAY + number).to_bytes(8, "little"))
        bodies.append(request.SerializeToString())
    return bodies


def predict_bodies(rng: np.random.Generator) -> list[bytes]:
    """Return requests of one row each of the model's source, for which Trimtab looks the features up."""
    bodies = []
    for number in range(500):
        row = {"id": f"key-{number}", "at": iso(MIDNIGHT + DAY + number), "zone": int(rng.integers(ZONES))}
        row |= {name: float(rng.normal()) for name in FIELDS}
        bodies.append(PredictRequest(model="model", rows=[json.dumps(row).encode()]).SerializeToString())
    return bodies


def online_features(
    rng: np.random.Generator, view: specs.FeatureView, source: specs.Source
) -> list[Outgoing]:
    fold = FoldState(Layout.of(view.spec, source.spec.lateness))
    zones, times = rng.integers(0, ZONES, 20_000), MIDNIGHT - rng.integers(0, 2 * DAY, 20_000)
    fold.fold([str(zone) for zone in zones], times, rng.normal(20, 5, (20_000, 1)))
    return testing.features(view.name, fold, MIDNIGHT + DAY, source.spec.partitions)


async def publish(servers: str, found: list[Outgoing]) -> None:
    producer = await bus.start_producer(servers)
    try:
        await records.send_all(producer, found)
    finally:
        await producer.stop()


async def apply(servers: str, rng: np.random.Generator, refs: list[VersionRef]) -> None:
    """Write what the registry and the feature store would: specs, features, and version 1 as the champion."""
    resources, _ = project()
    _, told, view, _ = resources
    assert isinstance(view, specs.FeatureView)
    assert isinstance(told, specs.Source)
    family = topics.FEATURES.named(view.name, partitions=told.spec.partitions)
    await admin.ensure_topics(servers, [*topics.STATIC, family])
    wanted = testing.deployment("model", 1, refs[0])
    await publish(servers, [*map(testing.spec, resources), *online_features(rng, view, told), wanted])


def client(address: str, method: str, bodies: Path) -> list[str]:
    """Return the command of the load client."""
    return grpc_client(address, method, bodies, SECONDS, CONCURRENCY, CHANNELS)


def measure(directory: Path) -> tuple[dict[str, list[dict[str, float]]], list[dict[str, float]]]:
    """Start everything, and return what each round gave: per kind of request, and with a challenger on trial."""
    rng = np.random.default_rng(0)
    cores = sorted(os.sched_getaffinity(0))
    server_core, client_core = cores[0], cores[-1]
    _, features = project()
    onnx = [train(rng, seed) for seed in (0, 1)]
    refs = [
        VersionRef(number=number, model=artifacts.put(directory, content), features=features)
        for number, content in enumerate(onnx, start=1)
    ]
    model, infer, predict = directory / "model.onnx", directory / "infer", directory / "predict"
    model.write_bytes(onnx[0])
    write_bodies(infer, infer_bodies(rng))
    write_bodies(predict, predict_bodies(rng))

    kafka = Kafka(directory / "kafka", ports.choose())
    plain_at, trimtab_at = (f"{ports.LOOPBACK}:{ports.choose()}" for _ in range(2))
    environ = environment.inherited() | {
        "TRIMTAB_KAFKA_SERVERS": kafka.servers,
        "TRIMTAB_GRPC_ADDRESS": trimtab_at,
        "TRIMTAB_STATE_DIR": str(directory / "state"),
        "TRIMTAB_SERVING_THREADS": str(THREADS),
    }
    servers: list[subprocess.Popen[bytes]] = []
    try:
        kafka.start()
        pin(kafka.process.pid, client_core)
        asyncio.run(apply(kafka.servers, rng, refs))
        servers.append(
            plain := start(
                [sys.executable, str(HERE / "serving_plain.py"), str(model), plain_at, str(THREADS)],
                environment.inherited(),
                server_core,
            )
        )
        servers.append(trimtab := start([sys.executable, "-m", "trimtab_serving"], environ, server_core))
        for address in (plain_at, trimtab_at):
            with grpc.insecure_channel(address, options=[("grpc.enable_http_proxy", 0)]) as channel:
                grpc.channel_ready_future(channel).result(timeout=60)
        rounds: dict[str, list[dict[str, float]]] = {"plain": [], "oip": [], "entity": []}
        for _ in range(ROUNDS):
            with stopped(trimtab.pid):
                rounds["plain"].append(ask(plain.pid, client(plain_at, INFER, infer), client_core))
            rounds["oip"].append(ask(trimtab.pid, client(trimtab_at, INFER, infer), client_core))
            rounds["entity"].append(ask(trimtab.pid, client(trimtab_at, PREDICT, predict), client_core))
        canary = Rollout(id="canary", strategy="canary", share=50)
        asyncio.run(
            publish(
                kafka.servers, [testing.deployment("model", 2, refs[0], challenger=refs[1], rollout=canary)]
            )
        )
        return rounds, [ask(trimtab.pid, client(trimtab_at, INFER, infer), client_core) for _ in range(2)]
    finally:
        for server in servers:
            server.kill()
            server.wait()
        kafka.kill()


def main() -> int:
    logging.getLogger("aiokafka").setLevel(logging.CRITICAL)
    with tempfile.TemporaryDirectory(prefix="bench-serving-") as directory:
        rounds, canary = measure(Path(directory))
    details: dict[str, Any] = {kind: summary(found) for kind, found in rounds.items()}
    details |= {
        "oip_with_canary": summary(canary),
        "oip_over_plain": [round(ratio, 3) for ratio in ratios(rounds["oip"], rounds["plain"], RATE)],
        "entity_over_plain": [round(ratio, 3) for ratio in ratios(rounds["entity"], rounds["plain"], RATE)],
        "concurrency": CONCURRENCY,
        "threads": THREADS,
        "versions": {"grpcio": grpc.__version__, "onnxruntime": onnxruntime.__version__},
    }
    for kind, about in (
        ("plain", "plain threaded gRPC server, ONNX Runtime only"),
        ("oip", "Trimtab, Open Inference Protocol; routed, logged, counted"),
        ("oip_with_canary", "the same with a challenger on trial, scored on every request"),
        ("entity", "Trimtab, entity Predict; features looked up as well"),
    ):
        found = details[kind]
        low, high = found["spread"]
        print(
            f"{found['requests_per_second']:6} requests/s ({low} to {high})  p50 {found['p50_ms']:5} ms  "
            f"p99 {found['p99_ms']:6} ms  {found['server_cpu_us']:4} us CPU  failed {found['failures']}  {about}"
        )
    failures = sum(details[kind]["failures"] for kind in ("oip", "oip_with_canary", "entity"))
    claims: list[dict[str, Any]] = [
        {
            "claim": "Trimtab over OIP, of a plain threaded gRPC server's requests per second",
            "value": round(statistics.median(ratios(rounds["oip"], rounds["plain"], RATE)), 3),
            "at_least": AT_LEAST,
        },
        {"claim": "requests that failed", "value": failures, "at_most": 0},
    ]
    print(json.dumps({"bench": "serving", "claims": claims, "details": details}))
    held = claims[0]["value"] >= AT_LEAST and failures == 0
    return 0 if held else 1


if __name__ == "__main__":
    sys.exit(main())
