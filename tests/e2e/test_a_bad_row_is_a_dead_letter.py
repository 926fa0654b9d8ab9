"""Rubbish in the stream costs nobody else anything."""

import json
from collections.abc import Callable
from typing import Any

import pytest
from aiokafka import AIOKafkaConsumer
from trimtab_contracts import topics
from trimtab_runtime.clock import iso
from trimtab_runtime.testing import eventually

pytestmark = [pytest.mark.real, pytest.mark.timeout(300)]


async def test_a_bad_row_is_a_dead_letter_with_its_reasons_and_the_stream_goes_on(
    make_world: Callable[..., Any],
) -> None:
    async with make_world("rubbish") as world:
        topic = topics.RAW.named(f"{world.name}-asks").name
        at = iso(world.now_ms + 1)
        headers = [("ce_arrivedat", at.encode())]
        bad = {"id": "bad", "at": at, "road": 7, "x": 1e9}
        await world.producer.send_and_wait(topic, b"{rubbish", key=b"r", headers=headers)
        await world.producer.send_and_wait(topic, json.dumps(bad).encode(), key=b"bad", headers=headers)
        consumer = AIOKafkaConsumer(
            topics.DEADLETTER.name,
            bootstrap_servers=world.servers,
            auto_offset_reset="earliest",
            isolation_level="read_committed",
        )
        await consumer.start()
        try:
            letters = []

            async def both() -> bool:
                for batch in (await consumer.getmany(timeout_ms=100)).values():
                    letters.extend(topics.DEADLETTER.decode(record.value) for record in batch)
                return len([letter for letter in letters if letter.topic == topic]) == 2

            await eventually(both, what="two dead letters")
        finally:
            await consumer.stop()

        mine = {bytes(letter.key): letter for letter in letters if letter.topic == topic}
        assert mine[b"r"].reasons[0].code == "malformed_json"
        assert mine[b"r"].payload == b"{rubbish"
        assert {(reason.field, reason.code) for reason in mine[b"bad"].reasons} == {
            ("road", "wrong_type"),
            ("note", "missing_field"),
            ("x", "out_of_range"),
        }

        await world.backfill(2)
        assert world.watermarks.reached("ingestion", f"{world.name}-asks", 2) == world.now_ms
