"""What bench_serving.py serves and asks: a model of 20 features, the specs and features around it, and the requests.

The requests of all doors ask for the same thing: the features of one row, or the fields from which Trimtab makes them.
"""

import json
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from skl2onnx import to_onnx
from sklearn.ensemble import HistGradientBoostingRegressor
from threadpoolctl import threadpool_limits
from trimtab_contracts import topics
from trimtab_contracts.registry.v1.registry_pb2 import VersionRef
from trimtab_contracts.serving.v1.serving_pb2 import PredictRequest
from trimtab_core import specs
from trimtab_core.slots import FoldState, Layout
from trimtab_runtime import admin, bus, records
from trimtab_runtime.clock import iso
from trimtab_runtime.records import Outgoing
from trimtab_serving import testing
from tritonclient.grpc import service_pb2 as pb2

DAY = 86_400_000
MIDNIGHT = 19_700 * DAY
FIELDS = [f"f{number}" for number in range(12)]
ZONES = 100


def project() -> tuple[list[specs.AnyResource], tuple[str, ...]]:
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


def train(rng: np.random.Generator) -> bytes:
    """Return a model of 100 boosted trees over 20 features, as ONNX."""
    features = rng.normal(size=(20_000, 20)).astype(np.float32)
    label = 3 * features[:, 0] + features[:, 1] * features[:, 2] + rng.normal(size=20_000)
    with threadpool_limits(1):  # on a busy machine several would wait for one another
        fitted = HistGradientBoostingRegressor(max_iter=100, random_state=0).fit(features, label)
    graph = to_onnx(fitted, features[:1], target_opset=18)
    taken = graph.graph.input[0].name
    for node in graph.graph.node:
        node.input[:] = ["features" if name == taken else name for name in node.input]
    graph.graph.input[0].name = "features"
    return bytes(graph.SerializeToString())


def retold(model: bytes, number: int) -> bytes:
    """Return a model that answers the same and is another file, so that it has to be fetched and loaded."""
    graph = onnx.load_from_string(model)
    graph.doc_string = f"version {number}"
    return bytes(graph.SerializeToString())


def infer_bodies(rows: NDArray[np.float32], keyed: bool) -> list[bytes]:
    """Return requests of one row each; the key and the time make them part of rollouts and of the log."""
    bodies = []
    for number, row in enumerate(rows):
        request = pb2.ModelInferRequest(model_name="model", id=str(number))
        request.inputs.add(name="features", datatype="FP32", shape=[1, len(row)])
        request.raw_input_contents.append(row.tobytes())
        if keyed:
            request.inputs.add(name="key", datatype="BYTES", shape=[1])
            request.inputs.add(name="event_time_ms", datatype="INT64", shape=[1])
            key = f"key-{number}".encode()
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


async def apply(servers: str, rng: np.random.Generator, champion: VersionRef) -> None:
    """Write what the registry and the feature store would: specs, features, and the champion."""
    resources, _ = project()
    _, told, view, _ = resources
    assert isinstance(view, specs.FeatureView)
    assert isinstance(told, specs.Source)
    family = topics.FEATURES.named(view.name, partitions=told.spec.partitions)
    await admin.ensure_topics(servers, [*topics.STATIC, family])
    wanted = testing.deployment("model", 1, champion)
    async with bus.open_producer(servers) as producer:
        found = [*map(testing.spec, resources), *online_features(rng, view, told), wanted]
        await records.send_all(producer, found)
