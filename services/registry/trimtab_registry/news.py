"""What the registry tells on which topic: the records that a change leaves in the outbox.

They carry the trace of the step that made them, and the loop's id.
"""

from collections.abc import Mapping

from trimtab_contracts import topics
from trimtab_contracts.registry.v1.registry_pb2 import Resource
from trimtab_runtime import records
from trimtab_runtime.records import Outgoing

from trimtab_registry import messages
from trimtab_registry.usecases.entities import Applied, Entry, StageChange, Version
from trimtab_registry.usecases.rollouts import Standing

SOURCE = "registry"


def of_spec(applied: Applied) -> Outgoing:
    """Return the news of an applied spec; of one that was deleted it is a tombstone."""
    if applied.deleted:
        return tombstone(applied.key, f"{applied.key}/{applied.generation}", applied.applied_at_ms)
    return records.outgoing(
        topics.SPECS,
        messages.resource(applied),
        key=applied.key,
        id=f"{applied.key}/{applied.generation}",
        source=SOURCE,
        time_ms=applied.applied_at_ms,
    )


def tombstone(key: str, id: str, at_ms: int) -> Outgoing:
    """Return the news that there is no such spec."""
    headers = records.headers(
        id=id, type=Resource.DESCRIPTOR.full_name, source=SOURCE, time_ms=at_ms, subject=key,
        content_type=b"application/json",
    )  # fmt: skip
    return Outgoing(topics.SPECS.name, key.encode(), None, headers)


def of_deployment(standing: Standing, versions: Mapping[int, Version]) -> Outgoing:
    """Return the news of what is wanted of a model."""
    return records.outgoing(
        topics.DEPLOYMENTS,
        messages.deployment(standing, versions),
        key=standing.model,
        id=f"{standing.model}/{standing.generation}",
        source=SOURCE,
        time_ms=standing.changed_at_ms,
        correlation=standing.loop_id,
    )


def of_stage(change: StageChange) -> Outgoing:
    """Return the news of what became of a version."""
    event = messages.version_event(change)
    return records.outgoing(
        topics.VERSIONS,
        event,
        key=event.model,
        id=event.id,
        source=SOURCE,
        time_ms=change.at_ms,
        correlation=event.loop_id,
    )


def of_entry(entry: Entry, traceparent: str | None = None) -> Outgoing:
    """Return the news of a recorded audit entry, in the trace of `traceparent` where that is not the present one."""
    return records.outgoing(
        topics.AUDIT,
        messages.audit_entry(entry),
        key=entry.resource,
        id=str(entry.sequence),
        source=SOURCE,
        time_ms=entry.at_ms,
        correlation=str(entry.details.get("loop_id", "")),
        traceparent=traceparent,
    )
