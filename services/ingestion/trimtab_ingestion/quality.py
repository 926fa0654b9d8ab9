"""What ingestion says of a source's data: how much came, how late, what was refused or cleaned, whether expectations hold.

An expectation refuses nothing. It is held against windows of the rows of one partition,
which are kept in memory: a restart, or a changed spec, begins a window anew.
"""

import logging
from collections import Counter
from collections.abc import Iterator
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from trimtab_contracts import topics
from trimtab_contracts.monitoring.v1.monitoring_pb2 import Alert, Metric
from trimtab_core.expectations import Expectations, Finding
from trimtab_core.specs import Source
from trimtab_runtime import records
from trimtab_runtime.clock import from_timestamp, iso, to_timestamp
from trimtab_runtime.records import Outgoing

from trimtab_ingestion.usecases import Judged

log = logging.getLogger(__name__)

_HOUR_MS: Final = 3_600_000


class Quality:
    """What there is to say of one partition of a source."""

    def __init__(self) -> None:
        self._expectations: tuple[Source, Expectations] | None = None
        self._held: dict[tuple[str, str], bool] = {}
        """By field and statistic whether it held when it was last looked at, of which an alert told."""

    def of(
        self,
        source: Source,
        last: Any,
        judged: Judged,
        kept: NDArray[np.int64],
        arrived_at_ms: NDArray[np.int64],
        *,
        repeats: int | None,
    ) -> list[Outgoing]:
        """Return what to publish of a batch of `source` that ends with the record `last`.

        `kept` are the places of the rows that are let in, `arrived_at_ms` is of all. `repeats` is how many had come before, None where nothing of it is
        to come once.
        """
        said = [_metric(metric, source, last) for metric in _of_batch(last, judged, repeats)]
        if kept.size:
            said.append(_metric(_delay(judged.event_time_ms[kept], arrived_at_ms[kept]), source, last))
        said += [
            _metric(metric, source, last, iso(from_timestamp(metric.window_from)))
            for metric in _by_hour(judged, kept)
        ]
        for finding in self._findings(source, judged):
            said += self._expected(finding, source, last)
        return said

    def _findings(self, source: Source, judged: Judged) -> list[Finding]:
        if self._expectations is None or self._expectations[0] is not source:
            self._expectations = (source, Expectations(source.spec))
        expectations = self._expectations[1]
        if not expectations:
            return []
        good = judged.good
        rows = [row for at in good.tolist() if (row := judged.rows[at]) is not None]
        return expectations.add(rows, judged.event_time_ms[good])

    def _expected(self, finding: Finding, source: Source, last: Any) -> list[Outgoing]:
        """Say how an expectation fares, and whenever it begins to fail or to hold, in an alert.

        A process that has just begun says once of all that holds that it does: an alert may be left from before it.
        """
        metric = Metric(
            name=finding.statistic,
            feature=finding.field,
            value=finding.value,
            low=finding.limit.low,
            high=finding.limit.high,
            held=finding.held,
            window_from=to_timestamp(finding.from_ms),
            window_to=to_timestamp(finding.to_ms),
            rows=finding.rows,
        )
        said = [_metric(metric, source, last)]
        what = (finding.field, finding.statistic)
        if self._held.get(what) is not finding.held:
            self._held[what] = finding.held
            if not finding.held:
                log.warning("%s/%d: %s", last.topic, last.partition, finding)
            todo = "" if finding.held else f": look at what {source.name!r} is sent, or mend the expectation"
            alert = Alert(
                id=metric.id,
                subject=source.name,
                severity="warning",
                kind="expectation",
                sentence=f"{finding}{todo}",
                at=to_timestamp(finding.to_ms),
                occasion=f"{last.topic}/{last.partition}/{finding.field}/{finding.statistic}",
                resolved=finding.held,
            )
            said.append(_output(topics.ALERTS, alert, source, last))
        return said


def _of_batch(last: Any, judged: Judged, repeats: int | None) -> list[Metric]:
    """Return what was refused of a batch and why, what repeats were dropped, and how many rows each cleaning has changed.

    A row that is refused for several reasons counts for each of them. A batch without a good row is of the time at
    which it arrived.
    """
    good, rows = judged.good, len(judged.reasons)
    times = judged.event_time_ms[good].tolist() or records.arrivals_ms([last]).tolist()
    said = [("refused_share", "", 1 - len(good) / rows)]
    codes = Counter(code for why in judged.reasons for code in {reason.code for reason in why})
    said += [(f"refused_{code}", "", float(count)) for code, count in codes.items()]
    if repeats is not None:
        said.append(("duplicates", "", float(repeats)))
    said += [(f"cleaned_{how}", field, float(count)) for (field, how), count in judged.cleaned.items()]
    return [
        Metric(
            name=name,
            feature=field,
            value=value,
            window_from=to_timestamp(min(times)),
            window_to=to_timestamp(max(times)),
            rows=rows,
        )
        for name, field, value in said
    ]


def _delay(event_time_ms: NDArray[np.int64], arrived_at_ms: NDArray[np.int64]) -> Metric:
    """Return how long after their event time rows have arrived, in the mean."""
    return Metric(
        name="delay_ms",
        value=float((arrived_at_ms - event_time_ms).mean()),
        window_from=to_timestamp(int(event_time_ms.min())),
        window_to=to_timestamp(int(event_time_ms.max())),
        rows=event_time_ms.size,
    )


def _by_hour(judged: Judged, kept: NDArray[np.int64]) -> Iterator[Metric]:
    """Yield for each hour of event time how many rows were let in, of how many that keep the contract, up to the newest."""
    times, mine = judged.event_time_ms[judged.good], judged.event_time_ms[kept]
    for hour in np.unique(times // _HOUR_MS).tolist():
        good = times[times // _HOUR_MS == hour]
        yield Metric(
            name="events",
            value=float(np.count_nonzero(mine // _HOUR_MS == hour)),
            window_from=to_timestamp(hour * _HOUR_MS),
            window_to=to_timestamp(int(good.max())),
            rows=good.size,
        )


def _metric(metric: Metric, source: Source, last: Any, part: str = "") -> Outgoing:
    """Complete a metric as of the record `last`, so that the same batch says the same of its `part` under the same id."""
    what = "/".join(each for each in (part, metric.feature, metric.name) if each)
    metric.id = f"{last.topic}/{last.partition}/{last.offset}/{what}"
    metric.model = source.name
    return _output(topics.METRICS_QUALITY, metric, source, last)


def _output(topic: topics.Topic[Any], message: Any, source: Source, last: Any) -> Outgoing:
    return records.outgoing(
        topic, message, key=source.name, id=message.id, source="ingestion", time_ms=last.timestamp
    )
