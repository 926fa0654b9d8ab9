"""Settings, errors, clock and records: what needs no other process."""

import asyncio
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace

import grpc
import pytest
from trimtab_contracts import topics
from trimtab_contracts.ingestion.v1.ingestion_pb2 import Reason
from trimtab_contracts.registry.v1.registry_pb2 import Deployment
from trimtab_runtime import artifacts, bus, clock, records, rpc, settings
from trimtab_runtime.errors import Conflict, NotFound, Rejected, Unavailable
from trimtab_runtime.lifecycle import finish
from trimtab_runtime.settings import BadSettings


@dataclass(frozen=True, kw_only=True)
class Config:
    kafka_servers: str
    margin: float = 0.5
    jobs: int = 1
    eager: bool = False
    data_dir: Path = field(default_factory=lambda: Path("data"))
    trace_file: Path | None = None


def test_a_services_own_variable_wins_over_the_shared_one() -> None:
    environ = {
        "TRIMTAB_KAFKA_SERVERS": "shared",
        "TRIMTAB_REGISTRY_KAFKA_SERVERS": "own",
        "TRIMTAB_EAGER": "true",
    }

    assert settings.load(Config, "registry", environ) == Config(kafka_servers="own", eager=True)


def test_all_faults_of_the_environment_are_told_at_once() -> None:
    with pytest.raises(BadSettings) as raised:
        settings.load(Config, "registry", {"TRIMTAB_MARGIN": "wide", "TRIMTAB_REGISTRY_JOBS": "1.5"})

    assert str(raised.value) == (
        "registry cannot start: TRIMTAB_KAFKA_SERVERS is not set: give it a text; "
        "TRIMTAB_MARGIN is 'wide', which is no number; TRIMTAB_REGISTRY_JOBS is '1.5', which is no whole number"
    )


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (NotFound("x"), grpc.StatusCode.NOT_FOUND),
        (Conflict("x"), grpc.StatusCode.FAILED_PRECONDITION),
        (Rejected("x"), grpc.StatusCode.INVALID_ARGUMENT),
        (Unavailable("x"), grpc.StatusCode.UNAVAILABLE),
        (artifacts.Corrupt("x"), grpc.StatusCode.INVALID_ARGUMENT),
    ],
)
def test_an_error_has_the_status_of_its_nearest_ancestor(error: Rejected, status: grpc.StatusCode) -> None:
    assert rpc.status_of(error) is status


def test_a_time_survives_every_form() -> None:
    ms = 1_584_489_599_123

    assert clock.from_timestamp(clock.to_timestamp(ms)) == ms
    assert clock.from_datetime(clock.to_datetime(ms)) == ms
    assert clock.parse_iso(clock.iso(ms)) == ms
    with pytest.raises(ValueError, match="no offset"):
        clock.parse_iso("2020-03-18T00:00:00")


def test_a_message_survives_its_topic() -> None:
    sent = records.outgoing(
        topics.DEPLOYMENTS,
        Deployment(model="m", generation=2**53 + 1),
        key="m",
        id="1",
        source="registry",
        time_ms=5,
    )

    raw = SimpleNamespace(
        topic=sent.topic,
        partition=0,
        offset=3,
        key=sent.key,
        value=sent.value,
        headers=sent.headers,
        timestamp=6,
    )

    read = records.read(topics.DEPLOYMENTS, raw)
    assert read.message.generation == 2**53 + 1
    assert read.id == "1"
    assert read.headers["ce_type"] == b"trimtab.registry.v1.Deployment"


def test_a_value_that_is_no_message_is_undecodable() -> None:
    with pytest.raises(topics.Undecodable, match=r"trimtab\.registry\.v1\.Deployment on deployments"):
        topics.DEPLOYMENTS.decode(b"{rubbish")
    with pytest.raises(topics.Undecodable, match="on predictions"):
        topics.PREDICTIONS.decode(b"\xff\xff\xff")


def test_headers_that_cannot_be_read_count_as_absent() -> None:
    raw = SimpleNamespace(
        headers=[("ce_time", b"yesterday"), ("ce_arrivedat", b"\xff"), ("ce_origin", b"x/y")], timestamp=77
    )

    origin = records.origin(raw)

    assert (origin.event_time_ms, origin.arrived_at_ms, origin.partition, origin.partitions) == (
        None,
        77,
        0,
        1,
    )


@pytest.mark.parametrize(
    "odd",
    [
        None,
        b"",
        b"yesterday",
        b"\xff" * 24,
        b"2020-13-01T00:00:00.000Z",
        b"2020\x00" * 4 + b"123Z",
        b"+2020-01-01T00:00:00.00Z",
        b"2020-01-01T00:00:00.000",
        b"2020-01-01T00:00:00.000+01:00",
        b"2020-01-01 00:00:00.000Z",
        b"2020-01-01T00:00:00.000Z and more",
        b"1970-01-01T00:00:00.000Z",
    ],
)
def test_many_headers_say_what_each_says_by_itself(odd: bytes | None) -> None:
    texts = [b"2020-01-01T00:00:00.001Z", odd, b"1969-12-31T23:59:59.999Z"]
    raw = [
        SimpleNamespace(headers=[("ce_arrivedat", text)], timestamp=at, topic="t", partition=0, offset=at)
        for at, text in enumerate(texts)
    ]

    for some in (raw, raw[1:2], raw[::2], []):
        assert records.arrivals_ms(some).tolist() == [records.origin(each).arrived_at_ms for each in some]


@pytest.mark.parametrize("many", [1, 3_000])
def test_a_dead_letter_fits_a_record_whatever_it_is_of_and_says_what_was_cut(many: int) -> None:
    raw = SimpleNamespace(
        topic="raw.trips",
        partition=1,
        offset=7,
        timestamp=0,
        headers=[],
        key=b"\xff" * 3_000_000,
        value=b"\xff" * 7_000_000,
    )
    reasons = [Reason(code="wrong_key", value="\x01" * (3_000_000 // many), message="it is wrong")] * many

    record = bus.dead_letter(raw, service="ingestion", source="trips", reasons=reasons)

    assert record.key is not None
    assert record.value is not None
    headers = sum(len(name) + len(value) for name, value in record.headers)
    assert len(record.key) + len(record.value) + headers + 1_000 < topics.MOST_BYTES
    letter = topics.DEADLETTER.decode(record.value)
    *told, payload, key = letter.reasons
    assert len(told) == many
    assert told[0].value.endswith(f"\x01… ({3_000_000 // many:,} characters)")
    assert (payload.code, payload.message) == (
        "cut",
        "only the first 4,194,304 of the 7,000,000 bytes of its payload are kept",
    )
    assert (key.code, key.message) == (
        "cut",
        "only the first 65,536 of the 3,000,000 bytes of its key are kept",
    )
    assert raw.value.startswith(letter.payload)
    again = bus.fitting(letter, 8_192).reasons[0].value
    assert again.endswith(f"… ({3_000_000 // many:,} characters)"), "as it was before it was cut at all"
    assert again.count("characters") == 1
    assert raw.key.startswith(letter.key)

    for most in bus.SMALLER:
        record = bus.cut(record, most)
    letter = topics.DEADLETTER.decode(record.value or b"")
    *_, payload, key = letter.reasons
    assert payload.message == "only the first 8,192 of the 7,000,000 bytes of its payload are kept"
    assert key.message == "only the first 128 of the 3,000,000 bytes of its key are kept"
    assert record.key == letter.key.decode(errors="replace").encode() == dict(record.headers)["ce_subject"]
    assert len(letter.reasons) == many + 2


async def test_what_is_being_closed_is_closed_whole_however_often_it_is_cancelled() -> None:
    may_end, closed = asyncio.Event(), asyncio.Event()

    async def close() -> None:
        await may_end.wait()
        closed.set()

    closing = asyncio.get_running_loop().create_task(finish(close()))
    for _ in range(3):
        await asyncio.sleep(0)
        closing.cancel()
    await asyncio.sleep(0)
    assert not closing.done()
    may_end.set()
    with pytest.raises(asyncio.CancelledError):
        await closing

    assert closed.is_set()


async def test_an_ending_that_does_not_end_is_given_up_though_it_swallows_its_cancellation() -> None:
    swallowed = 0

    async def never() -> None:
        nonlocal swallowed
        while swallowed < 2:
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                swallowed += 1

    await finish(never(), within_s=0.01)

    assert swallowed == 2
