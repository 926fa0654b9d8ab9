"""Records that nothing can be made of, whole, with the reason why."""

from typing import Any

from trimtab_contracts.ingestion.v1.ingestion_pb2 import Reason
from trimtab_runtime import bus
from trimtab_runtime.records import Outgoing


def letter(raw: Any, why: str) -> Outgoing:
    """Return the dead letter of a raw aiokafka record; a second one of the same record has the same id."""
    reasons = [Reason(code="undecodable", message=why)]
    return bus.dead_letter(raw, service="feature_store", source=raw.topic, reasons=reasons)
