"""What has come once: whom it keeps out, for how long, and that a new owner knows the same."""

import json
from collections.abc import AsyncIterator, Sequence
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError
from trimtab_contracts import topics
from trimtab_core.contract import FUTURE_MS
from trimtab_core.specs import FieldSpec, parse
from trimtab_ingestion.consumers import Ingest
from trimtab_ingestion.reading import Schemas
from trimtab_ingestion.seen import REPLAYS_HELD_MS
from trimtab_ingestion.usecases import Contracts
from trimtab_runtime import records
from trimtab_runtime.clock import iso
from trimtab_runtime.records import Outgoing
from trimtab_runtime.specbook import SpecBook

NOW = 1_700_000_000_000
HOUR, DAY = 3_600_000, 86_400_000
WITHIN, LATENESS = 2 * DAY, 2 * HOUR


class Partition:
    """Partition 1 of raw.trips, the worker that has it, and what it has committed to seen.trips."""

    def __init__(self, *, lowest: float = 0, **id_field: Any) -> None:
        self.next = 0
        self.log: list[Any] = []
        self.book = SpecBook()
        self.apply(lowest=lowest, **id_field)
        self.worker = self._open()

    def apply(self, *, lowest: float = 0, generation: int = 1, **id_field: Any) -> None:
        fields = {
            "id": {"type": "string", "unique_within": "2d"} | id_field,
            "ticket": {"type": "integer", "unique_within": "1h", "nullable": True},
            "at": {"type": "timestamp"},
            "x": {"type": "number", "min": lowest},
        }
        spec = {"key": "id", "event_time": "at", "lateness": "2h", "partitions": 2, "fields": fields}
        self.book.put(parse("Source", {"metadata": {"name": "trips"}, "spec": spec}), generation)

    async def reopen(self) -> None:
        """Have a new owner take the partition over; what it reads is compacted, which changes nothing."""
        newest = {record.key: record for record in self.log}
        self.log = [record for record in self.log if newest[record.key] is record]
        self.worker = self._open()
        await self.worker.restore()

    def send(self, *batch: Any) -> list[Outgoing]:
        for record in batch:
            record.offset, self.next = self.next, self.next + 1
        outputs = self.worker.process(batch)
        self.log += [
            SimpleNamespace(key=each.key, value=each.value) for each in outputs if each.topic == "seen.trips"
        ]
        return outputs

    def events(self, *batch: Any) -> list[str]:
        """Return the ids of the rows that `batch` let in."""
        sent = self.send(*batch)
        return [json.loads(each.value)["id"] for each in sent if each.topic == "events.trips" and each.value]

    def _open(self) -> Ingest:
        return Ingest(self.book, Contracts(), Schemas(), self._read, "raw.trips", 1)

    async def _read(self, topic: str, partition: int) -> AsyncIterator[Sequence[Any]]:
        assert (topic, partition) == ("seen.trips", 1)
        yield self.log


def row(
    id: str,
    at_ms: int = NOW,
    *,
    x: float = 1,
    ticket: int | float | None = None,
    replay_of: str = "",
    name: bytes = b"",
) -> Any:
    value = json.dumps({"id": id, "at": iso(at_ms), "x": x, "ticket": ticket}).encode()
    headers = [("ce_arrivedat", iso(at_ms).encode())]
    headers += [("ce_replayof", replay_of.encode())] if replay_of else []
    headers += [("ce_id", name)] if name else []
    return SimpleNamespace(
        topic="raw.trips", partition=1, offset=0, key=id.encode(), value=value, headers=headers, timestamp=NOW
    )


def mark(time_ms: int, *, timestamp: int = NOW) -> Any:
    headers = records.watermark_headers(source="trips", time_ms=time_ms, origin=1, origins=2)
    return SimpleNamespace(
        topic="raw.trips", partition=1, offset=0, key=None, value=b"", headers=headers, timestamp=timestamp
    )


def letters(outputs: Sequence[Outgoing]) -> list[Any]:
    return [topics.DEADLETTER.decode(each.value or b"") for each in outputs if each.topic == "deadletter"]


def metrics(outputs: Sequence[Outgoing]) -> dict[str, float]:
    told = [
        topics.METRICS_QUALITY.decode(each.value or b"")
        for each in outputs
        if each.topic == "metrics.quality"
    ]
    return {metric.name: metric.value for metric in told}


def held(partition: Partition) -> int:
    """Return how many records compaction would leave."""
    return sum(value is not None for value in {each.key: each.value for each in partition.log}.values())


@pytest.mark.parametrize("together", [True, False])
async def test_a_repeat_is_dropped_and_counted_and_is_no_dead_letter(together: bool) -> None:
    partition = Partition()
    batch = [row("a"), row("b"), row("a", NOW + 1)]
    if not together:
        partition.send(*batch[:2])
        await partition.reopen()
        batch = batch[2:]

    outputs = partition.send(*batch)

    assert letters(outputs) == []
    let_in = {"events": 2, "delay_ms": 0} if together else {"events": 0}
    assert metrics(outputs) == {"refused_share": 0, "duplicates": 1} | let_in
    events = [each for each in outputs if each.topic == "events.trips"]
    assert [dict(each.headers)["ce_id"] for each in events] == (
        [b"raw.trips/1/0", b"raw.trips/1/1"] if together else []
    )


def test_without_unique_fields_nothing_is_written_and_nothing_counted() -> None:
    partition = Partition(unique_within=None)

    outputs = partition.send(row("a"), row("a"))

    assert [each.topic for each in outputs] == ["events.trips"] * 2 + ["metrics.quality"] * 3


def test_a_value_is_free_again_after_its_time_on_either_side() -> None:
    partition = Partition()

    assert partition.events(row("a"), row("a", NOW + WITHIN), row("a", NOW - WITHIN)) == ["a"]
    assert partition.events(row("a", NOW + WITHIN + 1)) == ["a"]
    assert partition.events(row("a", NOW + 1), row("a", NOW + 2 * WITHIN)) == []


def test_a_row_that_is_refused_has_not_come() -> None:
    partition = Partition()

    assert partition.events(row("a", x=-1), row("b", x=-1)) == []
    assert partition.events(row("a"), row("b")) == ["a", "b"]


def test_a_row_that_repeats_in_one_field_has_not_come_in_the_others() -> None:
    partition = Partition()

    assert partition.events(row("a", ticket=7), row("b", ticket=7.0), row("c"), row("d")) == ["a", "c", "d"]
    assert partition.events(row("b", ticket=8), row("e", NOW + HOUR + 1, ticket=7)) == ["b", "e"]


async def test_a_value_is_held_as_long_as_a_row_may_repeat_it_and_no_longer() -> None:
    partition = Partition()
    assert partition.events(row("a"), row("b", NOW + HOUR)) == ["a", "b"]
    end = NOW + HOUR + WITHIN + LATENESS + FUTURE_MS

    partition.send(mark(end))
    await partition.reopen()
    assert partition.events(row("a", NOW + WITHIN)) == []
    partition.send(mark(end + 1))

    assert held(partition) == 0
    await partition.reopen()
    assert partition.events(row("a", NOW + WITHIN)) == ["a"]


def test_a_long_value_costs_no_more_than_a_short_one() -> None:
    partition = Partition()
    outputs = partition.send(*[row("x" * 100_000 + str(n)) for n in range(50)])

    [seen] = [each for each in outputs if each.topic == "seen.trips"]
    assert len(seen.value or b"") < 50 * 30
    assert topics.SEEN.decode(seen.value or b"").values[0].field == "id"


async def test_a_letter_whose_row_had_no_id_is_let_in_once_under_its_own() -> None:
    partition = Partition()
    [letter] = letters(partition.send(row("a", x=-1)))
    partition.apply(lowest=-5, generation=2)

    outputs = partition.send(row("a", x=-1, replay_of=letter.id), row("a", x=-1, replay_of=letter.id))
    [event] = [each for each in outputs if each.topic == "events.trips"]
    assert dict(event.headers)["ce_id"].decode() == letter.id == "raw.trips/1/0"
    assert metrics(outputs)["duplicates"] == 1

    await partition.reopen()
    partition.apply(lowest=-5, generation=3, unique_within=None)
    assert partition.events(row("a", x=-1, replay_of=letter.id)) == []


async def test_a_letter_whose_row_had_an_id_is_let_in_once_under_that() -> None:
    partition = Partition()
    [letter] = letters(partition.send(row("a", x=-1, name=b"mine")))
    [again] = letters(partition.send(row("a", x=-1, name=letter.row_id, replay_of=letter.id)))
    assert (again.id, again.row_id) == (letter.id, b"mine")
    partition.apply(lowest=-5, generation=2)

    outputs = partition.send(row("a", x=-1, name=again.row_id, replay_of=again.id))
    [event] = [each for each in outputs if each.topic == "events.trips"]
    assert dict(event.headers)["ce_id"] == b"mine"

    await partition.reopen()
    partition.apply(lowest=-5, generation=3, unique_within=None)
    assert partition.events(row("a", x=-1, name=again.row_id, replay_of=again.id)) == []


def test_a_letter_that_is_refused_again_keeps_its_id_and_may_come_yet() -> None:
    partition = Partition()
    [letter] = letters(partition.send(row("a", x=-1)))

    sent = partition.send(row("a", x=-9, replay_of=letter.id))

    [again] = letters(sent)
    assert (again.id, again.offset, again.reasons[0].code) == (letter.id, letter.offset, "out_of_range")
    assert [dict(each.headers).get("ce_replayof") for each in sent if each.topic == "deadletter"] == [
        letter.id.encode()
    ]
    partition.apply(lowest=-9, generation=2)
    assert partition.events(row("a", x=-9, replay_of=letter.id)) == ["a"]


def test_a_letter_states_the_arrival_that_it_was_judged_by() -> None:
    at_ms = NOW - 300 * DAY

    [letter] = letters(Partition().send(row("a", at_ms, x=-1)))

    assert letter.arrived_at.ToMilliseconds() == at_ms


async def test_two_letters_of_one_value_are_one_event_however_old_they_are() -> None:
    partition = Partition()
    first, second = letters(partition.send(row("a", x=-1), row("a", x=-1)))
    partition.apply(lowest=-1, generation=2)
    partition.send(mark(NOW + 20 * DAY))

    assert partition.events(row("a", x=-1, replay_of=first.id)) == ["a"]
    partition.send(mark(NOW + 21 * DAY))
    await partition.reopen()
    assert partition.events(row("a", x=-1, replay_of=second.id)) == []
    assert partition.events(row("a", x=-1, replay_of=second.id)) == []


async def test_a_replay_is_known_until_no_letter_can_be_left() -> None:
    partition = Partition(unique_within=None)
    [letter] = letters(partition.send(row("a", x=-1)))
    partition.apply(lowest=-1, generation=2, unique_within=None)
    partition.send(row("a", x=-1, replay_of=letter.id))

    partition.send(mark(NOW, timestamp=NOW + REPLAYS_HELD_MS))
    assert held(partition) == 1
    partition.send(mark(NOW + 1, timestamp=NOW + REPLAYS_HELD_MS + 1))
    assert held(partition) == 0


@pytest.mark.parametrize(
    "named",
    [
        "raw.trips/0/0",
        "raw.other/1/0",
        "raw.trips/1/1",
        "raw.trips/1/9",
        "raw.trips/1/x",
        "\u0664",
        "9" * 9_000,
    ],
)
def test_a_row_that_replays_nothing_of_its_partition_is_refused_with_the_remedy(named: str) -> None:
    partition = Partition()
    partition.send(row("first"))

    [letter] = letters(partition.send(row("a", replay_of=named)))

    assert letter.id == "raw.trips/1/1"
    assert letter.reasons[0].code == "wrong_replay"
    assert "trimtab deadletter replay" in letter.reasons[0].message


MOVES = st.lists(
    st.tuples(st.sampled_from("abc"), st.integers(0, 6), st.booleans(), st.integers(0, 2)), max_size=25
)


@settings(max_examples=150)
@given(moves=MOVES, size=st.integers(1, 6))
async def test_a_new_owner_after_every_batch_lets_in_what_one_that_lives_on_does_and_what_the_rule_says(
    moves: list[tuple[str, int, bool, int]], size: int
) -> None:
    """Each move is a row: its value, its day, whether it is refused, and how often it comes."""
    rows = [(value, NOW + day * DAY, is_bad) for value, day, is_bad, often in moves for _ in range(often)]
    let_in: list[tuple[str, int]] = []
    for value, at_ms, is_bad in rows:
        if not is_bad and all(value != other or abs(at_ms - then) > WITHIN for other, then in let_in):
            let_in.append((value, at_ms))
    lives_on, handed_on = Partition(), Partition()
    found: list[list[str]] = [[], []]
    for start in range(0, len(rows), size):
        for number, partition in enumerate((lives_on, handed_on)):
            batch = [row(value, at_ms, x=-is_bad) for value, at_ms, is_bad in rows[start : start + size]]
            found[number] += partition.events(*batch)
        await handed_on.reopen()

    assert found == [[value for value, _ in let_in]] * 2


@pytest.mark.parametrize("type", ["boolean", "timestamp"])
def test_a_field_that_names_no_row_cannot_be_unique(type: str) -> None:
    with pytest.raises(
        ValidationError, match=f"'2d' is for values that name a row, and this field is a {type}"
    ):
        FieldSpec(type=type, unique_within="2d")
