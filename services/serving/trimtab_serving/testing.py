"""What tests of serving share: a tiny project, the records that other services would write, and serving without Kafka."""

import hashlib
import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pyarrow as pa
from google.protobuf import json_format
from trimtab_contracts import topics
from trimtab_contracts.ingestion.v1.ingestion_pb2 import TableLoad
from trimtab_contracts.registry.v1.registry_pb2 import Deployment, Resource, Rollout, VersionRef
from trimtab_core import specs
from trimtab_core.lookup import Change, Version
from trimtab_core.slots import FoldState
from trimtab_runtime import artifacts, featurelog, records, tablelog
from trimtab_runtime.clock import ManualClock
from trimtab_runtime.featurelog import Progress
from trimtab_runtime.freshness import Freshness
from trimtab_runtime.records import Outgoing
from trimtab_runtime.reftables import RefTables
from trimtab_runtime.specbook import SpecBook

from trimtab_serving.cache import Entry, SessionCache
from trimtab_serving.consumers import Features, Tables, Wishes
from trimtab_serving.engines import Engine, OnnxEngine
from trimtab_serving.files import ModelFiles
from trimtab_serving.fleet import Fleet
from trimtab_serving.meter import Meter
from trimtab_serving.mirror import Mirror
from trimtab_serving.online import OnlineViews
from trimtab_serving.predictionlog import PredictionLog
from trimtab_serving.rows import Readers
from trimtab_serving.snapshot import Board
from trimtab_serving.usecases import Predictions


def linear_model(weights: Sequence[float], bias: float = 0.0) -> bytes:
    """Return an ONNX model that answers `features @ weights + bias`; a missing feature counts as 0."""
    from onnx import TensorProto, helper

    graph = helper.make_graph(
        [
            helper.make_node("IsNaN", ["features"], ["missing"]),
            helper.make_node("Where", ["missing", "zero", "features"], ["known"]),
            helper.make_node("MatMul", ["known", "weights"], ["weighted"]),
            helper.make_node("Add", ["weighted", "bias"], ["prediction"]),
        ],
        "linear",
        [helper.make_tensor_value_info("features", TensorProto.FLOAT, [None, len(weights)])],
        [helper.make_tensor_value_info("prediction", TensorProto.FLOAT, [None])],
        [
            helper.make_tensor("zero", TensorProto.FLOAT, [], [0.0]),
            helper.make_tensor("weights", TensorProto.FLOAT, [len(weights)], weights),
            helper.make_tensor("bias", TensorProto.FLOAT, [], [bias]),
        ],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    return bytes(model.SerializeToString())


def classifier(weights: Sequence[Sequence[float]]) -> bytes:
    """Return an ONNX model of classes whose chances are the softmax of `features @ weights` [features, classes]."""
    from onnx import TensorProto, helper, numpy_helper

    matrix = np.array(weights, np.float32)
    graph = helper.make_graph(
        [
            helper.make_node("IsNaN", ["features"], ["missing"]),
            helper.make_node("Where", ["missing", "zero", "features"], ["known"]),
            helper.make_node("MatMul", ["known", "weights"], ["weighted"]),
            helper.make_node("Softmax", ["weighted"], ["probabilities"], axis=1),
            helper.make_node("ArgMax", ["probabilities"], ["number"], axis=1, keepdims=0),
            helper.make_node("Cast", ["number"], ["prediction"], to=TensorProto.FLOAT),
        ],
        "classifier",
        [helper.make_tensor_value_info("features", TensorProto.FLOAT, [None, len(matrix)])],
        [
            helper.make_tensor_value_info("prediction", TensorProto.FLOAT, [None]),
            helper.make_tensor_value_info("probabilities", TensorProto.FLOAT, [None, matrix.shape[1]]),
        ],
        [
            helper.make_tensor("zero", TensorProto.FLOAT, [], [0.0]),
            numpy_helper.from_array(matrix, "weights"),
        ],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    return bytes(model.SerializeToString())


def version(
    data_dir: Path,
    number: int,
    features: Sequence[str],
    onnx: bytes,
    reference: pa.Table | None = None,
    *,
    classes: Sequence[str] = (),
) -> VersionRef:
    """Store a model's artifacts and return the version that names them."""
    made = VersionRef(number=number, model=artifacts.put(data_dir, onnx), features=features, classes=classes)
    if reference is not None:
        sink = pa.BufferOutputStream()
        with pa.ipc.new_file(sink, reference.schema) as writer:
            writer.write_table(reference)
        made.reference.CopyFrom(artifacts.put(data_dir, sink.getvalue().to_pybytes()))
    return made


def graph(onnx: bytes) -> Entry:
    """Return an ONNX model opened in this process."""
    return SessionCache(OnnxEngine(), 1 << 30).open("a graph", hashlib.sha256(onnx).hexdigest(), lambda: onnx)


def spec(resource: specs.AnyResource, generation: int = 1) -> Outgoing:
    """Return the record by which the registry publishes a spec."""
    message = Resource(kind=resource.kind, name=resource.name, generation=generation)
    json_format.ParseDict(specs.to_document(resource), message.document)
    key = f"{resource.kind}/{resource.name}"
    return records.outgoing(
        topics.SPECS, message, key=key, id=f"{key}/{generation}", source="test", time_ms=0
    )


def deployment(
    model: str,
    generation: int,
    champion: VersionRef | None,
    *,
    challenger: VersionRef | None = None,
    previous: VersionRef | None = None,
    rollout: Rollout | None = None,
    loop_id: str = "",
    others: Sequence[VersionRef] = (),
) -> Outgoing:
    """Return the record by which the registry publishes what it wants served."""
    message = Deployment(
        model=model,
        generation=generation,
        champion=champion,
        challenger=challenger,
        previous=previous,
        rollout=rollout,
        loop_id=loop_id,
        others=others,
    )
    return records.outgoing(
        topics.DEPLOYMENTS,
        message,
        key=model,
        id=f"{model}/{generation}",
        source="test",
        time_ms=0,
        correlation=loop_id,
    )


def features(
    view: str, state: FoldState, watermark_ms: int, partitions: int, generation: int = 1
) -> list[Outgoing]:
    """Return the records by which the feature store publishes all slots of a fold, and how far it has come."""
    topic = topics.FEATURES.named(view).name
    found = []
    for entity in state.entities:
        partition = featurelog.partition_of(entity, partitions)
        for index in range(state.layout.ring):
            slot, partials = state.slot(entity, index)
            if slot >= 0:
                value = featurelog.slot_value(entity, slot, partials, state.sketches(entity, index))
                found.append(Outgoing(topic, featurelog.key(generation, entity, index), value, [], partition))
    reached = Progress(dict.fromkeys(range(partitions), watermark_ms), partitions)
    for partition in range(partitions):
        key = featurelog.key(generation, None, partition)
        found.append(Outgoing(topic, key, featurelog.progress_value(reached), [], partition))
    return found


def table(name: str, *versions: tuple[str, int, dict[str, Any] | None]) -> list[Outgoing]:
    """Return the records by which ingestion publishes a load of a table: key, since when, and row of each version."""
    changes = [Change(key, since_ms, Version(row)) for key, since_ms, row in versions]
    columns = sorted({column for *_, row in versions for column in row or {}})
    written = [tablelog.change_record(name, change) for change in changes]
    return [*written, tablelog.load_record(name, TableLoad(loaded_ms=1, columns=columns))]


@dataclass(frozen=True, slots=True)
class Project:
    """Trips: asked about at the pickup, with how fast the zone was on the day before; and how large zones are."""

    pickups: specs.Source
    dropoffs: specs.Source
    speed: specs.FeatureView
    zones: specs.Table
    model: specs.Model

    @property
    def features(self) -> tuple[str, ...]:
        """What the model's versions take: the distance, the hour, and the zone's mean speed."""
        return ("request.distance", "hour(at)", f"{self.speed.name}.mph_mean_1d")

    @property
    def specs(self) -> list[Outgoing]:
        """The records that publish it."""
        return [
            spec(resource) for resource in (self.pickups, self.dropoffs, self.speed, self.zones, self.model)
        ]


def project(suffix: str = "", **changes: Any) -> Project:
    """Return a project whose names end in `suffix`; `changes` are of the model's spec."""
    fields = {
        "trip": {"type": "string"},
        "at": {"type": "timestamp"},
        "zone": {"type": "integer", "nullable": True},
    }
    pickups = {"distance": {"type": "number", "min": 0, "max": 100}}
    dropoffs = {"mph": {"type": "number"}, "minutes": {"type": "number"}}
    source = {"key": "trip", "event_time": "at", "lateness": "2h"}
    aggregates = [{"field": "mph", "functions": ["count", "mean"], "windows": ["1d"]}]
    view = {
        "source": f"dropoffs{suffix}",
        "entity": "zone",
        "aggregates": aggregates,
        "hop": "6h",
        "ttl": "10d",
    }
    zones = {
        "parquet": "/zones.parquet",
        "key": "zone",
        "refresh": "1h",
        "fields": {"zone": {"type": "integer"}, "area": {"type": "number"}},
    }
    model = {
        "task": "regression",
        "source": f"pickups{suffix}",
        "features": ["request.distance", "hour(at)", f"speed{suffix}.mph_mean_1d"],
        "label": {"source": f"dropoffs{suffix}", "on": "trip", "value": "minutes", "within": "4h"},
        "trainer": {"window": "60d"},
        "rollout": {"cap": 60},
    }
    return Project(
        specs.Source.model_validate(_named(f"pickups{suffix}", source | {"fields": fields | pickups})),
        specs.Source.model_validate(_named(f"dropoffs{suffix}", source | {"fields": fields | dropoffs})),
        specs.FeatureView.model_validate(_named(f"speed{suffix}", view)),
        specs.Table.model_validate(_named(f"zones{suffix}", zones)),
        specs.Model.model_validate(_named(f"minutes{suffix}", model | changes)),
    )


def _named(name: str, document: dict[str, Any]) -> dict[str, Any]:
    return {"metadata": {"name": name}, "spec": document}


@dataclass(frozen=True, slots=True)
class Raw:
    """A record as aiokafka hands it out."""

    topic: str
    partition: int
    offset: int
    key: bytes | None
    value: bytes | None
    headers: Sequence[tuple[str, bytes]]
    timestamp: int = 0


class Instance:
    """Serving without Kafka and without doors: hears records that it is handed, and answers."""

    def __init__(
        self,
        state_dir: Path,
        *,
        engine: Engine | None = None,
        memory_bytes: int = 1 << 30,
        always_warm: Sequence[str] = (),
    ) -> None:
        self._state_dir = state_dir
        self._engine = engine or OnnxEngine()
        self._memory = memory_bytes
        self._always_warm = always_warm
        self._offsets = itertools.count()
        self._begin()

    def _begin(self) -> None:
        self.clock = ManualClock(1_700_000_000_000)
        self.board, self.meter, self.book = Board(), Meter(), SpecBook()
        self.mirror = Mirror(self._state_dir / "mirror", 64 * 1024 * 1024)
        self.views = OnlineViews(self.book, self.mirror.records, self._inputs_changed)
        self.references = RefTables(self.book, self.mirror.records)
        self.watermarks: list[tuple[str, int]] = []
        freshness = Freshness(self.clock, "serving-0")
        readers = Readers(self.book, self.views, self.references)
        self.cache = SessionCache(self._engine, self._memory)
        files = ModelFiles(self._state_dir / "models")
        self.fleet = Fleet(
            self.board, files, self.cache, readers.of, lambda _: None, always_warm=self._always_warm
        )
        self.log = PredictionLog(partial(featurelog.partition_of, partitions=2), 2)
        self.predictions = Predictions(self.board, self.log, self.meter, self.clock)
        self._wishes = Wishes(self.mirror, self.book, self.fleet, self._specs_changed)
        self._features = Features(
            self.mirror, self.views, freshness, lambda *moved: self.watermarks.append(moved)
        )

        self._tables = Tables(self.mirror, self.references, self._inputs_changed)

    async def hear(self, *heard: Outgoing) -> None:
        """Take in records, and bring about what they want."""
        for record in heard:
            raw = Raw(
                record.topic,
                record.partition or 0,
                next(self._offsets),
                record.key,
                record.value,
                record.headers,
            )
            family = record.topic.partition(".")[0]
            doors: dict[str, Features | Tables] = {"features": self._features, "tables": self._tables}
            door = doors.get(family, self._wishes)
            await door.hear(raw.topic, raw.partition, [raw])
        await self.fleet.settle()

    async def restart(self) -> None:
        """End, and begin again with what was kept on disk."""
        self.close()
        self._begin()
        self._wishes.replay()
        await self.fleet.settle()

    def close(self) -> None:
        """Close the local copy."""
        self.mirror.__exit__()

    def _specs_changed(self) -> None:
        self.views.update()
        self.references.update()
        self._inputs_changed()

    def _inputs_changed(self) -> None:
        self.fleet.know(self.book.models)


def with_value(record: Outgoing, value: bytes | None) -> Outgoing:
    """Return a record with another value; None makes it a tombstone."""
    return msgspec.structs.replace(record, value=value)
