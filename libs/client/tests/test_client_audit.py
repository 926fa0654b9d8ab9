"""The audit log beside its own hashes and beside what was told of it: nothing is taken on the registry's word."""

from collections.abc import AsyncIterator, Sequence

import pytest
from google.protobuf import json_format
from trimtab.audit import Told, Verified, line_of, verify
from trimtab_contracts import topics
from trimtab_contracts.registry.v1.registry_pb2 import AuditEntry
from trimtab_core.auditchain import GENESIS
from trimtab_runtime.clock import to_timestamp

REWRITTEN = "is not what was told on the topic: the log was rewritten"


def a_log(*actors: str) -> list[AuditEntry]:
    """Return a log that is whole, an entry for each actor."""
    log, previous = [], GENESIS
    for number, actor in enumerate(actors, 1):
        entry = AuditEntry(
            sequence=number, resource="Model/m", action="promoted", actor=actor, previous=previous
        )
        entry.at.CopyFrom(to_timestamp(1_700_000_000_123 + number))
        json_format.ParseDict({"version": number, "evidence": 0.1 * number}, entry.details)
        entry.hash = previous = line_of(entry).hash_after(previous)
        log.append(entry)
    return log


async def pages(log: Sequence[AuditEntry]) -> AsyncIterator[Sequence[AuditEntry]]:
    for start in range(0, len(log), 2):
        yield log[start : start + 2]


def told_of(log: Sequence[AuditEntry]) -> Told:
    """Return what a topic has told that carried each entry, the last one twice."""
    told = Told()
    for entry in [*log, *log[-1:]]:
        told.note(topics.AUDIT.decode(topics.AUDIT.encode(entry)))
    return told


async def test_a_log_as_it_was_recorded_and_told_is_whole() -> None:
    log = a_log("ann", "bob", "carl")

    assert await verify(pages(log)) == Verified(3, 0)
    assert await verify(pages(log), told_of(log)) == Verified(3, 3)
    assert await verify(pages(log), told_of(log[:2])) == Verified(3, 2), "the last one waits in the outbox"


async def test_an_entry_that_was_changed_is_found_by_its_own_hash() -> None:
    log = a_log("ann", "bob", "carl")
    log[1].actor = "eve"

    found = await verify(pages(log))

    assert (found.entries, found.fault.split(":")[0]) == (1, "entry 2 is not what was recorded")


async def test_a_log_that_was_rewritten_whole_is_found_beside_the_topic_alone() -> None:
    told, rewritten = a_log("ann", "bob", "carl"), a_log("ann", "eve", "carl")

    assert await verify(pages(rewritten)) == Verified(3, 0)
    assert await verify(pages(rewritten), told_of(told)) == Verified(1, 1, f"entry 2 {REWRITTEN}")
    assert await verify(pages(rewritten), told_of(told[2:])) == Verified(2, 0, f"entry 3 {REWRITTEN}"), (
        "one hash is enough"
    )


async def test_entries_that_are_gone_from_the_end_are_found_beside_the_topic() -> None:
    log = a_log("ann", "bob", "carl")

    found = await verify(pages(log[:1]), told_of(log))

    assert found.fault == "entry 2 was told on the topic and is not in the log: it was removed"


async def test_what_was_told_before_there_was_a_chain_is_compared_by_what_it_says() -> None:
    old, log, rewritten = a_log("ann", "bob"), a_log("ann", "bob", "carl"), a_log("ann", "eve", "carl")
    for entry in old:
        entry.ClearField("previous")
        entry.ClearField("hash")

    assert await verify(pages(log), told_of(old)) == Verified(3, 2)
    assert (await verify(pages(rewritten), told_of(old))).fault == f"entry 2 {REWRITTEN}"


async def test_an_entry_that_was_told_in_two_ways_is_a_fault() -> None:
    log, other = a_log("ann", "bob"), a_log("eve", "bob")

    found = await verify(pages(log), told_of([*log, *other]))

    assert found.fault == "entry 1 was told twice on the topic, and differently"


@pytest.mark.parametrize("log", [a_log("ann"), []])
async def test_with_nothing_told_there_is_nothing_to_compare_with(log: list[AuditEntry]) -> None:
    assert "nothing to compare the log with" in (await verify(pages(log), Told())).fault
