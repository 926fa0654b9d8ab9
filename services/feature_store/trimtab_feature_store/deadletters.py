"""Records that nothing can be made of, whole, with the reason why."""

from typing import Any

from trimtab_contracts import topics
from trimtab_contracts.ingestion.v1.ingestion_pb2 import Reason
from trimtab_runtime import bus, records
from trimtab_runtime.records import Outgoing


def letter(raw: Any, why: str) -> Outgoing:
    """Return the dead letter of a raw aiokafka record; a second one of the same record has the same id."""
    message = bus.dead_letter(raw, source=raw.topic, reasons=[Reason(code="undecodable", message=why)])
    return records.outgoing(
        topics.DEADLETTER,
        message,
        key=(raw.key or b"").decode(errors="replace"),
        id=message.id,
        source="feature_store",
        time_ms=raw.timestamp,
    )
