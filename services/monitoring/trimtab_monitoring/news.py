"""What monitoring tells on which topic: the records that a transaction leaves in the outbox.

They carry the trace of the step that made them, and the loop's id where there is one.
"""

from collections.abc import Iterator, Sequence
from typing import Any

from trimtab_contracts import topics
from trimtab_core.watched import Drift, Reading, Verdict
from trimtab_runtime import records
from trimtab_runtime.records import Outgoing

from trimtab_monitoring import messages
from trimtab_monitoring.usecases.entities import Alert, Closed, Command, News, WantedLabel

SOURCE = "monitoring"
_METRICS = {
    "drift": topics.METRICS_DRIFT,
    "performance": topics.METRICS_PERFORMANCE,
    "quality": topics.METRICS_QUALITY,
}


def outgoing(news: Sequence[News]) -> Iterator[Outgoing]:
    """Yield the record of each."""
    for item in news:
        yield _outgoing(item)


def _outgoing(item: News) -> Outgoing:
    match item:
        case Reading():
            return _record(_METRICS[item.subject], messages.metric(item), item.model, item.id, item.to_ms)
        case Drift():
            event = messages.drift_event(item)
            return _record(topics.DRIFT, event, item.model, item.episode, item.at_ms, item.episode)
        case Verdict():
            return _record(topics.VERDICTS, messages.verdict(item), item.model, item.id, item.at_ms)
        case Command():
            order = messages.retrain_command(item)
            return _record(topics.COMMANDS_RETRAIN, order, item.model, item.id, item.as_of_ms, item.loop_id)
        case Alert():
            return _record(topics.ALERTS, messages.alert(item), item.subject, item.id, item.at_ms)
        case WantedLabel():
            wanted = messages.wanted_label(item)
            return _record(topics.LABELS_WANTED, wanted, item.model, wanted.id, item.at_ms)
        case Closed():
            key = f"monitoring/{item.model}/0/"
            return _record(
                topics.WATERMARKS, messages.watermark(item), key, f"{key}{item.time_ms}", item.time_ms
            )


def _record(topic: Any, message: Any, key: str, id: str, time_ms: int, loop_id: str = "") -> Outgoing:
    return records.outgoing(
        topic, message, key=key, id=id, source=SOURCE, time_ms=time_ms, correlation=loop_id
    )
