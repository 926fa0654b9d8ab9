"""What the topics of metrics say of a source and of views: quality day by day, and freshness.

A batch counts whole for the UTC day of its newest event, which is also where its
refused rows count, for many of them have no time that could be read. One without a
good row counts for the day on which it arrived.
"""

import logging
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from aiokafka import TopicPartition
from trimtab_contracts import topics
from trimtab_contracts.monitoring.v1.monitoring_pb2 import Metric
from trimtab_core.limits import Limit
from trimtab_runtime.clock import from_timestamp, iso
from trimtab_runtime.freshness import P50, P99

from trimtab.reading import PATIENCE_S, committed, opened, up_to

log = logging.getLogger(__name__)

DAY_MS = 86_400_000
_RECENT = 200
"""Records of each partition that are looked at for the newest of each view."""
_REFUSED, _CLEANED = "refused_", "cleaned_"


@dataclass(slots=True)
class Day:
    """How good the rows of one day of a source were, as ingestion judged them."""

    day: str
    rows: int = 0
    """That were sent, refused and repeated ones included."""
    refused: int = 0
    reasons: Counter[str] = field(default_factory=Counter)
    """Refused rows by reason; one that had several counts for each."""
    duplicates: int = 0
    cleaned: Counter[str] = field(default_factory=Counter)
    """Rows that cleaning changed, by field and what was done."""
    expectations: int = 0
    """How often a statistic was held against what is expected."""
    failed: list[str] = field(default_factory=list)
    """What was not as expected, a sentence each."""

    def add(self, metric: Metric) -> None:
        """Count a metric in."""
        if metric.HasField("held"):
            self.expectations += 1
            if not metric.held:
                self.failed.append(_sentence(metric))
        elif metric.name == "refused_share":
            self.rows += metric.rows
            self.refused += round(metric.value * metric.rows)
        elif metric.name == "duplicates":
            self.duplicates += round(metric.value)
        elif metric.name.startswith(_REFUSED):
            self.reasons[metric.name.removeprefix(_REFUSED)] += round(metric.value)
        elif metric.name.startswith(_CLEANED):
            what = f"{metric.feature} {metric.name.removeprefix(_CLEANED)}"
            self.cleaned[what] += round(metric.value)

    def described(self) -> dict[str, Any]:
        """Return it as plain data."""
        return {
            "day": self.day,
            "rows": self.rows,
            "refused": self.refused,
            "reasons": dict(self.reasons),
            "duplicates": self.duplicates,
            "cleaned": dict(self.cleaned),
            "expectations": self.expectations,
            "failed": self.failed,
        }

    def row(self) -> dict[str, Any]:
        """Return it as a row of a table."""
        return {
            "day": self.day,
            "rows": self.rows,
            "refused": f"{self.refused} ({self.refused / self.rows:.2%})" if self.refused else "0",
            "because": _counted(self.reasons),
            "duplicates": self.duplicates,
            "cleaned": _counted(self.cleaned),
            "not as expected": f"{len(self.failed)} of {self.expectations}" if self.expectations else "",
        }


def limit_of(metric: Metric) -> Limit:
    """Return where the value of an expectation should be."""
    return Limit(
        metric.low if metric.HasField("low") else None, metric.high if metric.HasField("high") else None
    )


def by_day(source: str, metrics: Iterable[Metric]) -> list[Day]:
    """Return the days that metrics of a source speak of, in order."""
    days: dict[str, Day] = {}
    place = f"{topics.RAW.named(source).name}/"
    for metric in metrics:
        if metric.id.startswith(place):  # and not of a model that is called like it
            day = iso(from_timestamp(metric.window_to))[:10]
            days.setdefault(day, Day(day)).add(metric)
    return [days[day] for day in sorted(days)]


async def quality(servers: str, source: str) -> list[Day]:
    """Return how good a source's rows were on each day, as far back as the metrics are kept.

    Raises:
        Unavailable: Kafka is away.
    """
    topic, found = topics.METRICS_QUALITY, []
    async for record in committed(servers, topic.name):
        if record.key == source.encode():
            try:
                found.append(topic.decode(record.value))
            except topics.Undecodable as error:
                log.warning("%s/%d/%d is left out: %s", topic.name, record.partition, record.offset, error)
    return by_day(source, found)


async def freshness(servers: str) -> list[dict[str, Any]]:
    """Return how long the newest events of each view took, a row for each view and each process that reads it.

    Raises:
        Unavailable: Kafka is away, or goes away meanwhile.
    """
    found: dict[tuple[str, str], dict[str, Any]] = {}
    for where, metric in await _recent(servers):
        row = found.setdefault((metric.model, where), {"view": metric.model, "read by": where})
        row["transactions"], row["until"] = metric.rows, iso(from_timestamp(metric.window_to))
        row[{P50: "p50 ms", P99: "p99 ms"}.get(metric.name, metric.name)] = metric.value
    return [found[place] for place in sorted(found)]


async def _recent(servers: str) -> list[tuple[str, Metric]]:
    """Return the newest metrics of features in order, each with the instance that told it."""
    topic = topics.METRICS_FEATURES
    found: list[tuple[int, str, Metric]] = []
    async with opened(servers, request_timeout_ms=int(PATIENCE_S * 1000)) as consumer:
        if topic.name not in await consumer.topics():
            return []
        places = [TopicPartition(topic.name, number) for number in range(topic.partitions)]
        consumer.assign(places)
        begins, ends = await consumer.beginning_offsets(places), await consumer.end_offsets(places)
        for place in places:
            consumer.seek(place, max(begins[place], ends[place] - _RECENT))
        async for batch in up_to(consumer, ends, servers=servers):
            for record in batch:
                where = dict(record.headers).get("ce_source", b"").decode()
                found.append((record.timestamp, where, topic.decode(record.value)))
    return [(where, metric) for _, where, metric in sorted(found, key=lambda each: each[0])]


def _counted(counts: Counter[str]) -> str:
    """Return counts as a text, the greatest first."""
    return ", ".join(f"{what} {count}" for what, count in counts.most_common())


def _sentence(metric: Metric) -> str:
    what = f"{metric.name} of {metric.feature} was {metric.value:.4g} over {metric.rows} rows"
    return f"{what}, and {limit_of(metric)} is expected"
