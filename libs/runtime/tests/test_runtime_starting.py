"""A Kafka that answers and knows no broker yet is one that is away: what starts beside it waits."""

import asyncio
import uuid
from collections.abc import Callable, Sequence
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.client import AIOKafkaClient
from aiokafka.errors import KafkaConnectionError, KafkaError, RequestTimedOutError
from trimtab_contracts import topics
from trimtab_contracts.monitoring.v1.monitoring_pb2 import Alert
from trimtab_contracts.topics import Topic
from trimtab_runtime import admin, bus, starting
from trimtab_runtime.records import Record
from trimtab_runtime.starting import naming_no_brokers, started
from trimtab_runtime.transactions import FAILURES, Transactions
from trimtab_stack.pytest_plugin import delete_topics

NO_BROKERS = (
    AssertionError("Did we not perform bootstrap?"),
    AttributeError("'NoneType' object has no attribute 'nodeId'"),
)


@pytest.fixture(autouse=True)
def in_haste(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have what is away tried again at once."""
    monkeypatch.setattr(starting, "AGAIN_AFTER_S", 0.01)


class Consumer:
    """Fails to start with `fault`, if there is one."""

    def __init__(self, fault: BaseException | None) -> None:
        self.fault = fault
        self.stops = 0

    async def start(self) -> None:
        if self.fault:
            raise self.fault

    async def stop(self) -> None:
        self.stops += 1


def in_turn(*faults: BaseException | None) -> tuple[list[Consumer], Callable[[], Any]]:
    """Return consumers that are to come, one for each fault, and what makes them."""
    made = [Consumer(fault) for fault in faults]
    coming = iter(made)
    return made, lambda: next(coming)


@pytest.mark.parametrize("fault", NO_BROKERS)
def test_what_the_client_fails_with_while_it_knows_no_broker_is_an_error_of_kafkas(fault: Exception) -> None:
    with pytest.raises(KafkaError, match="names no brokers yet"), naming_no_brokers():
        raise fault


def test_any_other_fault_stays_what_it_is() -> None:
    with pytest.raises(AttributeError, match="spec"), naming_no_brokers():
        raise AttributeError("'NoneType' object has no attribute 'spec'")


@pytest.mark.parametrize(
    "away", [*NO_BROKERS, KafkaConnectionError("nobody answers"), KafkaError("no group")]
)
async def test_a_consumer_is_made_anew_until_kafka_is_there_and_each_is_stopped(away: Exception) -> None:
    made, make = in_turn(away, away, None)

    async with started(make, "trainer") as consumer:
        assert consumer is made[2]
        assert [each.stops for each in made] == [1, 1, 0]
    assert [each.stops for each in made] == [1, 1, 1]


@pytest.mark.parametrize("fault", [AssertionError("a fault of ours"), asyncio.CancelledError()])
async def test_a_fault_that_waiting_does_not_mend_is_raised_and_the_consumer_stopped(
    fault: BaseException,
) -> None:
    made, make = in_turn(fault)

    with pytest.raises(type(fault)):
        async with started(make, "trainer"):
            pytest.fail("it never started")
    assert made[0].stops == 1


@pytest.fixture
def no_broker_at_first(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Have aiokafka know of no broker when it first looks for one of a group or a transaction; return whose it looked for."""
    looked: list[str] = []
    look = AIOKafkaClient.coordinator_lookup

    async def in_vain_at_first(client: AIOKafkaClient, kind: Any, key: str) -> Any:
        looked.append(key)
        if len(looked) <= 2:
            monkeypatch.setattr(client, "get_random_node", lambda: None)
        return await look(client, kind, key)

    monkeypatch.setattr(AIOKafkaClient, "coordinator_lookup", in_vain_at_first)
    return looked


@pytest.mark.real
async def test_a_service_hears_its_topics_although_kafka_named_no_broker_when_it_began(
    kafka_servers: str, no_broker_at_first: Sequence[str]
) -> None:
    topic: Topic[Alert] = replace(topics.ALERTS, name=f"alerts-{uuid.uuid4().hex[:8]}", partitions=1)
    await admin.ensure_topics(kafka_servers, [topic])
    async with bus.open_producer(kafka_servers) as producer:
        await producer.send_and_wait(topic.name, value=topic.encode(Alert(sentence="heard")), key=b"k")
    heard: asyncio.Queue[str] = asyncio.Queue()

    async def hear(message: Alert, _: Record[Alert]) -> None:
        heard.put_nowait(message.sentence)

    consuming = asyncio.ensure_future(  # noqa: TID251 - a test's own
        bus.consume(kafka_servers, f"group-{topic.name}", [bus.each(topic, hear)])
    )
    try:
        assert await asyncio.wait_for(heard.get(), 60) == "heard"
        assert len(no_broker_at_first) > 2
    finally:
        consuming.cancel()
        await asyncio.wait([consuming])


@pytest.mark.real
async def test_transactions_that_find_no_broker_fail_as_if_kafka_were_away(
    kafka_servers: str, no_broker_at_first: Sequence[str]
) -> None:
    with pytest.raises(FAILURES, match="names no brokers yet"):
        await Transactions.open(kafka_servers, f"t-{uuid.uuid4().hex[:8]}")


@pytest.fixture
def no_controller_at_first(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Have a client know of no controller until it has asked three times; return how often it asked."""
    bootstrap, update = AIOKafkaClient.bootstrap, AIOKafkaClient.force_metadata_update
    asked: list[str] = []

    async def without_controller(client: AIOKafkaClient) -> None:
        await bootstrap(client)
        client.cluster.controller = None

    async def in_vain_at_first(client: AIOKafkaClient) -> Any:
        asked.append("asked")
        return await update(client) if len(asked) > 2 else False

    monkeypatch.setattr(AIOKafkaClient, "bootstrap", without_controller)
    monkeypatch.setattr(AIOKafkaClient, "force_metadata_update", in_vain_at_first)
    return asked


@pytest.mark.real
async def test_topics_are_made_as_soon_as_kafka_names_a_controller(
    kafka_servers: str, no_controller_at_first: list[str]
) -> None:
    own = replace(topics.ALERTS, name=f"alerts-{uuid.uuid4().hex[:8]}", partitions=1)

    await admin.ensure_topics(kafka_servers, [own])

    assert len(no_controller_at_first) > 2


@pytest.mark.real
async def test_a_file_of_tests_leaves_no_topic_though_kafka_names_no_controller_and_is_slow(
    kafka_servers: str, no_controller_at_first: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    own = replace(topics.ALERTS, name=f"alerts-{uuid.uuid4().hex[:8]}", partitions=1)
    await admin.ensure_topics(kafka_servers, [own])
    delete, answers = AIOKafkaAdminClient.delete_topics, list[Any]()

    async def too_slow_at_first(client: AIOKafkaAdminClient, names: list[str]) -> Any:
        late = SimpleNamespace(topic_error_codes=[(name, RequestTimedOutError.errno) for name in names])
        answers.append(await delete(client, names) if answers else late)
        return answers[-1]

    monkeypatch.setattr(AIOKafkaAdminClient, "delete_topics", too_slow_at_first)
    no_controller_at_first.clear()
    await delete_topics(kafka_servers)

    assert len(answers) > 1
    assert len(no_controller_at_first) > 2
    async with admin.administering(kafka_servers) as client:
        assert own.name not in await client.list_topics()
