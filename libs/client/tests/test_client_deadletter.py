"""`trimtab deadletter`: which letters are meant, what is told of them, and what is sent."""

import json
import sys
from collections.abc import AsyncIterator, Callable
from types import SimpleNamespace
from typing import Any

import pytest
from trimtab import cli, deadletters
from trimtab_contracts import topics
from trimtab_contracts.ingestion.v1.ingestion_pb2 import DeadLetter, Reason, Seen
from trimtab_runtime import bus
from trimtab_runtime.clock import iso, to_timestamp
from trimtab_runtime.errors import NotFound, Rejected, TrimtabError
from trimtab_runtime.records import Outgoing

NOW = 1_700_000_000_000
Tell = Callable[..., str]


def a_letter(
    offset: int,
    payload: bytes = b'{"id": "a"}',
    *,
    topic: str = "raw.trips",
    code: str = "out_of_range",
    field: str = "x",
    value: str = "-1",
    row_id: bytes = b"",
    content_type: str = "",
) -> DeadLetter:
    return DeadLetter(
        id=f"{topic}/1/{offset}",
        source=topics.RAW.member(topic),
        topic=topic,
        partition=1,
        offset=offset,
        key=b"a",
        payload=payload,
        reasons=[Reason(code=code, field=field, value=value, message=f"{field} {value} is wrong: mend it")],
        arrived_at=to_timestamp(NOW - 5),
        row_id=row_id,
        content_type=content_type,
    )


class Kafka:
    """What lies on the topics that the command reads, and what it sends."""

    def __init__(self) -> None:
        self.topics: dict[str, list[Any]] = {}
        self.sent: list[Outgoing] = []

    def refuse(self, letter: DeadLetter, *, again: bool = False) -> None:
        records = self.topics.setdefault("deadletter", [])
        headers = [("ce_replayof", letter.id.encode())] if again else []
        records.append(
            SimpleNamespace(
                value=topics.DEADLETTER.encode(letter),
                headers=headers,
                timestamp=NOW + len(records),
                partition=0,
                offset=len(records),
            )
        )

    def take(self, topic: str, *offsets: int) -> None:
        value = topics.SEEN.encode(Seen(replayed=offsets))
        self.topics[topic] = [
            SimpleNamespace(value=value, partition=1),
            SimpleNamespace(value=None, partition=1),
        ]

    async def records(self, _: str, topic: str, since_ms: int | None = None) -> AsyncIterator[Any]:
        for record in self.topics.get(topic, []):
            if since_ms is None or record.timestamp >= since_ms:
                yield record

    async def replay(self, _: str, letters: Any) -> None:
        self.sent += [deadletters._sent_again(letter) for letter in letters]


@pytest.fixture
def kafka(monkeypatch: pytest.MonkeyPatch) -> Kafka:
    kafka = Kafka()
    monkeypatch.setenv("TRIMTAB_REGISTRY_ADDRESS", "r:1")
    monkeypatch.setenv("TRIMTAB_KAFKA_SERVERS", "k:1")
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.setattr(deadletters, "committed", kafka.records)
    monkeypatch.setattr(deadletters, "replay", kafka.replay)
    return kafka


@pytest.fixture
def tell(kafka: Kafka, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Tell:
    """Run the command and return what it prints."""

    def run(*words: str) -> str:
        monkeypatch.setattr(sys, "argv", ["trimtab", "deadletter", *words])
        cli.app(standalone_mode=False)
        return capsys.readouterr().out

    return run


def test_letters_are_listed_with_what_has_become_of_them(kafka: Kafka, tell: Tell) -> None:
    for offset in (1, 2, 3):
        kafka.refuse(a_letter(offset))
    kafka.refuse(a_letter(2, value="-9"), again=True)
    kafka.refuse(a_letter(4, topic="runs", code="undecodable", field=""))
    kafka.take("seen.trips", 3)

    listed = json.loads(tell("list", "--json"))

    assert [(each["id"], each["state"]) for each in listed] == [
        ("raw.trips/1/1", "waiting"),
        ("raw.trips/1/3", "replayed"),
        ("raw.trips/1/2", "refused again"),
        ("runs/1/4", "not known"),
    ]
    assert listed[2]["reasons"][0]["value"] == "-9"
    assert "out_of_range" in tell("list")


def test_what_is_no_letter_is_left_out_and_said(
    kafka: Kafka, tell: Tell, caplog: pytest.LogCaptureFixture
) -> None:
    kafka.refuse(a_letter(1))
    rubbish = SimpleNamespace(value=b"{rubbish", headers=[], timestamp=NOW, partition=3, offset=9)
    kafka.topics["deadletter"].append(rubbish)

    assert len(json.loads(tell("list", "--json"))) == 1
    assert "deadletter/3/9 is left out" in caplog.text


@pytest.mark.parametrize(
    ("words", "found"),
    [
        (["--source", "trips"], ["raw.trips/1/1", "raw.trips/1/2"]),
        (["--reason", "late"], ["raw.trips/1/2"]),
        (["--field", "x"], ["raw.trips/1/1", "raw.other/1/3"]),
        (["--reason", "late", "--field", "x"], []),
        (["--since", iso(NOW + 2)], ["raw.other/1/3"]),
        (["--limit", "1"], ["raw.other/1/3"]),
        (["--limit", "0"], ["raw.trips/1/1", "raw.trips/1/2", "raw.other/1/3"]),
    ],
)
def test_a_list_is_narrowed(kafka: Kafka, tell: Tell, words: list[str], found: list[str]) -> None:
    kafka.refuse(a_letter(1))
    kafka.refuse(a_letter(2, code="late", field="at"))
    kafka.refuse(a_letter(3, topic="raw.other"))

    assert [each["id"] for each in json.loads(tell("list", "--json", *words))] == found


def test_what_a_list_leaves_out_is_said(kafka: Kafka, tell: Tell) -> None:
    assert tell("list") == "no dead letter: nothing was refused\n"
    for offset in range(3):
        kafka.refuse(a_letter(offset))

    assert "and 2 older: --limit 0 shows all" in tell("list", "--limit", "1")


def test_a_letter_is_shown_with_reasons_row_and_the_way_on(kafka: Kafka, tell: Tell) -> None:
    kafka.refuse(a_letter(7, b'{"id": "a", "x": -1}'))

    told = tell("show", "raw.trips/1/7")

    assert "out_of_range: x -1 is wrong: mend it" in told
    assert "field x, value -1" in told
    assert '"x": -1' in told
    assert "arrived   2023-11-14T22:13:19.995Z" in told
    assert "trimtab deadletter replay raw.trips/1/7" in told
    assert json.loads(tell("show", "raw.trips/1/7", "--json"))["row"] == {"id": "a", "x": -1}


@pytest.mark.parametrize("rubbish", [b"{rubbish", b"\xff\x00", b"[" * 50_000, b'{"x": NaN}', b""])
def test_a_payload_that_is_no_json_is_shown_as_bytes(kafka: Kafka, tell: Tell, rubbish: bytes) -> None:
    kafka.refuse(a_letter(7, rubbish))

    told = tell("show", "raw.trips/1/7")

    assert f"payload   {len(rubbish)} bytes" in told
    assert rubbish[:2].hex(" ") in told
    assert "row" not in json.loads(tell("show", "raw.trips/1/7", "--json"))


def test_what_a_user_sent_neither_steers_the_terminal_nor_breaks_the_table(kafka: Kafka, tell: Tell) -> None:
    kafka.refuse(a_letter(7, field="[/red]\x1b[2J", value="[bold]"))

    for told in (tell("list"), tell("show", "raw.trips/1/7")):
        assert "[/red]" in told
        assert "[bold]" in told
        assert "\x1b[2J" not in told


def test_a_row_goes_back_to_where_it_came_from_as_it_arrived_then(kafka: Kafka, tell: Tell) -> None:
    kafka.refuse(a_letter(7))

    assert "would send 1 to raw.trips" in tell("replay", "--all", "--dry-run")
    assert kafka.sent == []
    assert "sent 1 to raw.trips" in tell("replay", "raw.trips/1/7")
    [sent] = kafka.sent
    assert (sent.topic, sent.partition, sent.key, sent.value) == ("raw.trips", 1, b"a", b'{"id": "a"}')
    assert dict(sent.headers) == {
        "ce_arrivedat": iso(NOW - 5).encode(),
        "ce_replayof": b"raw.trips/1/7",
    }


def test_a_row_keeps_the_id_that_its_producer_gave_it(kafka: Kafka, tell: Tell) -> None:
    kafka.refuse(a_letter(7, row_id=b"mine \xff"))

    tell("replay", "--all")

    [sent] = kafka.sent
    assert dict(sent.headers)["ce_id"] == b"mine \xff"
    assert dict(sent.headers)["ce_replayof"] == b"raw.trips/1/7"


def test_a_row_goes_back_as_what_it_said_it_was(kafka: Kafka, tell: Tell) -> None:
    kafka.refuse(a_letter(7, content_type="application/json"))
    kafka.refuse(a_letter(8, b"\0\0\0\0\7\xff"))

    tell("replay", "--all")

    assert [(sent.value, dict(sent.headers).get("content-type")) for sent in kafka.sent] == [
        (b'{"id": "a"}', b"application/json"),
        (b"\0\0\0\0\7\xff", None),
    ]


def test_what_was_replayed_or_is_no_users_row_is_left_out_and_said(kafka: Kafka, tell: Tell) -> None:
    for letter in (
        a_letter(1),
        a_letter(2),
        a_letter(3, topic="runs"),
        a_letter(4, code=bus.CUT),
    ):
        kafka.refuse(letter)
    kafka.take("seen.trips", 2)

    told = tell("replay", "--all")

    assert [dict(sent.headers)["ce_replayof"] for sent in kafka.sent] == [b"raw.trips/1/1"]
    assert "1 had been replayed before" in told
    assert "2 cannot be replayed: runs/1/3 cannot be replayed, for it lay on runs" in told
    kafka.take("seen.trips", 1, 2)
    assert json.loads(tell("replay", "--source", "trips", "--json"))["sent"] == []


@pytest.mark.parametrize(
    ("words", "error", "said"),
    [
        (["show", "nosuch"], NotFound, "there is no dead letter 'nosuch': look at `trimtab deadletter list`"),
        (["replay"], Rejected, "nothing is named: give ids, --source, --reason or --field, or --all"),
        (["replay", "--all", "--source", "s"], Rejected, "--all stands beside what narrows it"),
        (["replay", "raw.trips/1/9"], NotFound, "there is no dead letter 'raw.trips/1/9'"),
        (["replay", "runs/1/1"], Rejected, "runs/1/1 cannot be replayed, for it lay on runs"),
        (["replay", "raw.trips/1/2"], Rejected, "only the first 4,194,304 of the 4,194,305 bytes"),
        (
            ["replay", "raw.trips/1/3"],
            Rejected,
            "a letter keeps 4194304 bytes of a row and this one may have had more",
        ),
        (["list", "--since", "noon"], Rejected, "--since 'noon' is no time"),
    ],
)
def test_what_cannot_be_done_is_told_in_a_sentence(
    kafka: Kafka, tell: Tell, words: list[str], error: type[TrimtabError], said: str
) -> None:
    kafka.refuse(a_letter(1, topic="runs"))
    kafka.refuse(bus.fitting(a_letter(2, b"x" * (topics.MOST_ROW_BYTES + 1))))
    kafka.refuse(a_letter(3, b"x" * topics.MOST_ROW_BYTES))  # as the version before cut one

    with pytest.raises(error) as raised:
        tell(*words)

    assert said in str(raised.value)
    assert kafka.sent == []
