"""Every topic of Trimtab, said once.

Creation, `docs/topics.md`, the AsyncAPI document and each service's subscriptions
come from this table; a test holds them to it. A name with a `{placeholder}` is a
family: one topic for each source, view or table, made when its spec is applied.
"""

from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Any, Generic, TypeVar

from google.protobuf import json_format
from google.protobuf.message import DecodeError, Message

from trimtab_contracts.common.v1.common_pb2 import Watermark
from trimtab_contracts.features.v1.features_pb2 import FeatureRecord
from trimtab_contracts.ingestion.v1.ingestion_pb2 import DeadLetter, Seen, TableRecord
from trimtab_contracts.monitoring.v1.monitoring_pb2 import Alert, DriftEvent, Metric, Verdict, WantedLabel
from trimtab_contracts.registry.v1.registry_pb2 import AuditEntry, Deployment, Resource, VersionEvent
from trimtab_contracts.serving.v1.serving_pb2 import PredictionBatch, Score, ServingStatus
from trimtab_contracts.training.v1.training_pb2 import RetrainCommand, RunEvent

M = TypeVar("M", bound=Message)

_DAY_MS = 86_400_000
MOST_BYTES = 8_388_608
"""Of one record, or one batch of them: what services send at most, and topics take."""
MOST_ROW_BYTES = 4_194_304
"""Of a user's row: what becomes of it, a dead letter in base64 included, fits a record."""


class Encoding(StrEnum):
    """How a value travels."""

    ROW = "a user's row, as JSON"
    JSON = "the message's JSON mapping"
    BINARY = "the message's binary form"


class How(StrEnum):
    """How a service reads a topic."""

    SHARED = "shared"
    """A consumer group: each record goes to one process, offsets are committed."""
    EVERYONE = "everyone"
    """No group: every process reads from the start, and is ready at the end offsets."""


class Undecodable(ValueError):
    """The bytes are not a value of the topic."""


@dataclass(frozen=True, slots=True)
class Topic(Generic[M]):
    """One row of the table; `M` ties a handler to the message it hears."""

    name: str
    about: str
    key: str
    value: type[M] | None
    encoding: Encoding
    producers: tuple[str, ...]
    readers: tuple[tuple[str, How], ...]
    partitions: int = 4
    retention_ms: int | None = None
    """How long records are kept; None keeps them for ever."""
    compacted: bool = False

    def named(self, name: str, *, partitions: int | None = None) -> "Topic[M]":
        """Return the member of this family for a source, view or table called `name`."""
        head, brace, _ = self.name.partition("{")
        if not brace:
            raise ValueError(f"topic {self.name!r} is no family: use it as it is")
        return replace(self, name=head + name, partitions=partitions or self.partitions)

    def member(self, name: str) -> str:
        """Return the source, view or table that the topic called `name` belongs to, in this family."""
        return name.removeprefix(self.name.partition("{")[0])

    @property
    def is_family(self) -> bool:
        """Whether there is one such topic for each source, view or table."""
        return "{" in self.name

    @property
    def config(self) -> dict[str, str]:
        """The broker's settings for this topic."""
        settings = {
            "cleanup.policy": "compact" if self.compacted else "delete",
            "message.timestamp.type": "LogAppendTime",
            "max.message.bytes": str(MOST_BYTES),
        }
        if self.compacted:
            settings |= {"min.compaction.lag.ms": "60000", "segment.ms": str(_DAY_MS)}
        else:
            settings["retention.ms"] = str(-1 if self.retention_ms is None else self.retention_ms)
        return settings

    def encode(self, message: M) -> bytes:
        """Return the bytes that a record of this topic carries."""
        if self.encoding is Encoding.BINARY:
            return message.SerializeToString()
        return json_format.MessageToJson(message, preserving_proto_field_name=True, indent=None).encode()

    def decode(self, value: bytes) -> M:
        """Return the message in a record's value.

        Raises:
            Undecodable: the bytes hold no such message; it says what was wrong.
        """
        if self.value is None:
            raise TypeError(f"{self.name} carries users' rows, not messages")
        try:
            if self.encoding is Encoding.BINARY:
                return self.value.FromString(value)
            return json_format.Parse(value, self.value(), ignore_unknown_fields=True)
        except (DecodeError, json_format.ParseError, UnicodeDecodeError) as error:
            raise Undecodable(f"not a {self.value.DESCRIPTOR.full_name} on {self.name}: {error}") from error


def _messages(name: str, value: type[M], **rest: Any) -> Topic[M]:
    return Topic(name=name, value=value, encoding=rest.pop("encoding", Encoding.JSON), **rest)


SHARED, EVERYONE = How.SHARED, How.EVERYONE
_SERVICES = ("ingestion", "feature_store", "trainer", "registry", "serving", "monitoring")

RAW: Topic[Message] = Topic(
    name="raw.{source}",
    about="What producers send, in the source's format; a record with `content-type` application/json is JSON. `ce_arrivedat` may state when it arrived, `ce_id` what the event is called; `ce_replayof` names "
    "the dead letter that is sent again, to the partition it came from; a record of type `trimtab.watermark` says that "
    "nothing at or before its `ce_time` will follow in its partition. Of a source that is `predictions_of` a model serving is the producer.",
    key="the source's key",
    value=None,
    encoding=Encoding.ROW,
    producers=("producers", "ingestion", "serving"),
    readers=(("ingestion", SHARED),),
    retention_ms=7 * _DAY_MS,
)
EVENTS: Topic[Message] = Topic(
    name="events.{source}",
    about="Rows that keep the source's data contract; `ce_time` is the event time. Same partition as the raw record.",
    key="the source's key",
    value=None,
    encoding=Encoding.ROW,
    producers=("ingestion",),
    readers=(("feature_store", SHARED), ("monitoring", SHARED), ("serving", SHARED)),
    retention_ms=7 * _DAY_MS,
)
KEYED: Topic[Message] = Topic(
    name="keyed.{view}",
    about="The fields that a view folds, brought together by entity: many rows a record, column by column, with their "
    "event times and ids.",
    key="none; the partition is the entity's",
    value=None,
    encoding=Encoding.ROW,
    producers=("feature_store",),
    readers=(("feature_store", SHARED),),
    retention_ms=7 * _DAY_MS,
)
SEEN = _messages(
    "seen.{source}",
    Seen,
    about="What of raw.{source} has been let in and may not come again: values of fields that are `unique_within` a time, "
    "and replayed dead letters. A record for each transaction, in the partition of its rows.",
    key="rows/ or replays/, and the offset of the transaction's last raw record",
    encoding=Encoding.BINARY,
    producers=("ingestion",),
    readers=(("ingestion", EVERYONE), ("operators", EVERYONE)),
    compacted=True,
)
TABLES = _messages(
    "tables.{table}",
    TableRecord,
    about="The history of a reference table: what each key is since when, and how the newest load went. A version lies ahead "
    "of its time when it is written, and is never overwritten once that has come.",
    key="JSON [key, since]; of the load [null, 0]",
    encoding=Encoding.BINARY,
    producers=("ingestion",),
    readers=(("ingestion", SHARED), ("feature_store", EVERYONE), ("serving", EVERYONE)),
    partitions=1,
    compacted=True,
)
DEADLETTER = _messages(
    "deadletter",
    DeadLetter,
    about="Records that were refused, whole, with every reason; the newest record of an id counts. One with a header "
    "`ce_replayof` was sent again, and refused again.",
    key="the original key",
    producers=_SERVICES,
    readers=(("operators", SHARED),),
    retention_ms=30 * _DAY_MS,
)
FEATURES = _messages(
    "features.{view}",
    FeatureRecord,
    about="The online state of a view: the slots of each entity's ring. Partitioned like keyed.{view}. The last slot of a "
    "transaction says in `tt_produced` when the oldest event in it was produced, in milliseconds since the epoch.",
    key="JSON [generation, entity, ring index]",
    encoding=Encoding.BINARY,
    producers=("feature_store",),
    readers=(("feature_store", EVERYONE), ("serving", EVERYONE)),
    compacted=True,
)
PREDICTIONS = _messages(
    "predictions",
    PredictionBatch,
    about="What serving saw and said, column by column.",
    key="model; the partition is the label's join key's",
    encoding=Encoding.BINARY,
    producers=("serving",),
    readers=(("feature_store", SHARED), ("monitoring", SHARED)),
    retention_ms=7 * _DAY_MS,
)
SCORES = _messages(
    "scores.{source}",
    Score,
    about="What models that `score: [stream]` say of each event as it arrives, exactly once; the log of it is on predictions. "
    "Same partition as the event.",
    key="the source's key",
    producers=("serving",),
    readers=(("applications", SHARED),),
    retention_ms=7 * _DAY_MS,
)
METRICS_QUALITY = _messages(
    "metrics.quality",
    Metric,
    about="How good data is: how much comes, what was refused or cleaned, whether expectations hold, whether tables load, and "
    "what of a live version's predictions is missing, impossible or new. And how many records an outbox has set aside.",
    key="source, table, model or outbox",
    producers=("ingestion", "monitoring", "registry", "trainer"),
    readers=(("analysts", SHARED), ("monitoring", SHARED)),
    retention_ms=30 * _DAY_MS,
)
METRICS_DRIFT = _messages(
    "metrics.drift",
    Metric,
    about="Drift scores and p-values, per window and feature.",
    key="model",
    producers=("monitoring",),
    readers=(("analysts", SHARED),),
    retention_ms=30 * _DAY_MS,
)
METRICS_PERFORMANCE = _messages(
    "metrics.performance",
    Metric,
    about="Realised performance of a window, of its slices and of both arms of a rollout, and the share that is labelled, which late labels "
    "revise; and as `estimated_<metric>` before the labels have come, which is never revised.",
    key="model",
    producers=("monitoring",),
    readers=(("analysts", SHARED),),
    retention_ms=30 * _DAY_MS,
)
METRICS_SERVING = _messages(
    "metrics.serving",
    Metric,
    about="Requests, failures and latency of each serving instance.",
    key="model",
    producers=("serving",),
    readers=(("analysts", SHARED),),
    retention_ms=30 * _DAY_MS,
)
METRICS_FEATURES = _messages(
    "metrics.features",
    Metric,
    about="How long events take from produced to readable as features, where they are read: `freshness_p50_ms` and "
    "`freshness_p99_ms`, of the wall clock; `rows` is how many transactions were measured.",
    key="view",
    producers=("feature_store", "serving"),
    readers=(("analysts", SHARED),),
    retention_ms=30 * _DAY_MS,
)
DRIFT = _messages(
    "drift",
    DriftEvent,
    about="Drift that the evidence upholds, once an episode.",
    key="model",
    producers=("monitoring",),
    readers=(("monitoring", SHARED),),
    retention_ms=90 * _DAY_MS,
)
COMMANDS_RETRAIN = _messages(
    "commands.retrain",
    RetrainCommand,
    about="Orders to train a candidate.",
    key="model",
    producers=("monitoring", "trainer"),
    readers=(("trainer", SHARED), ("monitoring", SHARED)),
    retention_ms=30 * _DAY_MS,
)
RUNS = _messages(
    "runs",
    RunEvent,
    about="What became of each training run.",
    key="model",
    producers=("trainer",),
    readers=(("registry", SHARED), ("monitoring", SHARED), ("feature_store", EVERYONE), ("trainer", SHARED)),
    retention_ms=90 * _DAY_MS,
)
SPECS = _messages(
    "specs",
    Resource,
    about="What users applied: sources, feature views, tables and models.",
    key="kind/name",
    producers=("registry",),
    readers=tuple((service, EVERYONE) for service in _SERVICES if service != "registry"),
    partitions=1,
    compacted=True,
)
VERSIONS = _messages(
    "versions",
    VersionEvent,
    about="What became of each version: refused, on trial, live, rolled back.",
    key="model",
    producers=("registry",),
    readers=(("monitoring", SHARED), ("trainer", SHARED)),
    retention_ms=90 * _DAY_MS,
)
DEPLOYMENTS = _messages(
    "deployments",
    Deployment,
    about="The wanted state of each model: champion, challenger, rollout.",
    key="model",
    producers=("registry",),
    readers=(
        ("serving", EVERYONE),
        ("monitoring", EVERYONE),
        ("trainer", EVERYONE),
        ("feature_store", EVERYONE),
    ),
    compacted=True,
)
VERDICTS = _messages(
    "verdicts",
    Verdict,
    about="What the judge says of a challenger.",
    key="model",
    producers=("monitoring",),
    readers=(("registry", SHARED),),
    retention_ms=90 * _DAY_MS,
)
LABELS_WANTED = _messages(
    "labels.wanted",
    WantedLabel,
    about="Predictions whose label would tell most, with the chance that each was asked for, where a model's spec says "
    "`monitoring.labels_wanted`.",
    key="model",
    producers=("monitoring",),
    readers=(("applications", SHARED),),
    retention_ms=30 * _DAY_MS,
)
SERVING_STATUS = _messages(
    "serving.status",
    ServingStatus,
    about="What each serving instance has loaded and warm: a heartbeat with a lease.",
    key="model@instance",
    producers=("serving",),
    readers=(("registry", EVERYONE),),
    compacted=True,
)
WATERMARKS = _messages(
    "watermarks",
    Watermark,
    about="How far in event time each stage has come.",
    key="stage/name/partition/instance",
    producers=("ingestion", "feature_store", "serving", "monitoring"),
    readers=(("operators", EVERYONE),),
    partitions=1,
    compacted=True,
)
ALERTS = _messages(
    "alerts",
    Alert,
    about="What a person should look at.",
    key="model, source or table",
    producers=("ingestion", "monitoring"),
    readers=(("monitoring", SHARED), ("operators", SHARED)),
    retention_ms=90 * _DAY_MS,
)
AUDIT = _messages(
    "audit",
    AuditEntry,
    about="Who did what, when and why.",
    key="kind/name",
    producers=("registry",),
    readers=(("compliance", SHARED),),
    retention_ms=None,
)

ALL: tuple[Topic[Any], ...] = (
    RAW, EVENTS, SEEN, TABLES, KEYED, DEADLETTER, FEATURES, PREDICTIONS, SCORES, METRICS_QUALITY, METRICS_DRIFT, METRICS_PERFORMANCE,
    METRICS_SERVING, METRICS_FEATURES, DRIFT, COMMANDS_RETRAIN, RUNS, SPECS, VERSIONS, DEPLOYMENTS, VERDICTS, SERVING_STATUS, WATERMARKS,
    LABELS_WANTED, ALERTS, AUDIT,
)  # fmt: skip
STATIC: tuple[Topic[Any], ...] = tuple(topic for topic in ALL if not topic.is_family)
"""The topics that exist before any spec is applied."""


def heard_by(service: str) -> frozenset[str]:
    """Names of the topics that the table says `service` reads."""
    return frozenset(topic.name for topic in ALL if service in dict(topic.readers))
