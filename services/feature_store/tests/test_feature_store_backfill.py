"""Files that go straight to the archive: each row once, judged as events are, before everything of the stream."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from aiokafka.partitioner import DefaultPartitioner
from trimtab_core import specs
from trimtab_feature_store.backfill import Backfill, Sent, Taken
from trimtab_feature_store.errors import BadPart, OtherPart, SentBefore
from trimtab_feature_store.rows import Rows
from trimtab_feature_store.store import EVER_MS, DeltaStore, Piece
from trimtab_feature_store.tables import EventTable
from trimtab_feature_store.testing import MemoryStore
from trimtab_runtime.clock import iso
from trimtab_runtime.specbook import SpecBook, UnknownSource

Store = DeltaStore | MemoryStore
HOUR = 3_600_000
START = 420_000 * HOUR
FILE, OTHER = "a" * 64, "b" * 64
SOURCE = {
    "key": "id",
    "event_time": "at",
    "lateness": "1h",
    "partitions": 2,
    "fields": {
        "id": {"type": "string", "unique_within": "3h"},
        "at": {"type": "timestamp"},
        "zone": {"type": "integer", "min": 1, "nullable": True, "nulls": [-1]},
        "town": {"type": "string", "trim": True, "nullable": True},
    },
}


@pytest.fixture(params=["delta", "memory"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Store:
    return DeltaStore(tmp_path) if request.param == "delta" else MemoryStore()


@pytest.fixture
def book() -> SpecBook:
    book = SpecBook()
    book.put(specs.parse("Source", {"metadata": {"name": "rides"}, "spec": SOURCE}))
    return book


@pytest.fixture
def backfill(book: SpecBook, store: Store) -> Backfill:
    return Backfill(book, store)


def a_row(id: str, hour: float = 0, **fields: Any) -> dict[str, Any]:
    return {"id": id, "at": iso(START + round(hour * HOUR)), "zone": 1, **fields}


def a_part(
    rows: Sequence[dict[str, Any]],
    *,
    after: int = 0,
    file: str = FILE,
    late_h: float = 0,
    skip: Iterable[int] = (),
) -> Sent:
    """Rows of a file behind row `after`, those with a number in `skip` left out; they arrived `late_h` after they happened."""
    there = {after + n: row for n, row in enumerate(rows, start=1) if after + n not in set(skip)}
    arrived = [
        int(np.datetime64(row["at"][:-1], "ms").astype(np.int64)) + round(late_h * HOUR)
        for row in there.values()
    ]
    return Sent(
        file, after, after + len(rows), list(there), [msgspec.json.encode(r) for r in there.values()], arrived
    )


def archived(store: Store, *columns: str) -> list[dict[str, Any]]:
    version = store.reach("events/rides", 2).version
    found = store.read(
        "events/rides", [*columns, "offset"], version=version, start_ms=-EVER_MS, end_ms=EVER_MS
    )
    return [dict(row) for row in found.sort_by("offset").select(list(columns)).to_pylist()]


def stream(store: Store, book: SpecBook, ids: Sequence[str], hour: float = 0) -> None:
    """What the stream has archived: rows at offsets from 0 on, in the partitions of their keys."""
    table = EventTable(book.source("rides").spec)
    for partition in (0, 1):
        mine = [each for each in ids if home(each) == partition]
        times = np.full(len(mine), START + round(hour * HOUR), np.int64)
        payloads = [msgspec.json.encode(a_row(each, hour)) for each in mine]
        rows = table.batch(
            Rows(payloads, [f"s/{each}" for each in mine], times, times, list(range(len(mine)))), partition
        )
        piece = Piece("events.rides", partition, rows, len(mine))
        store.append("events/rides", table.schema, [piece], {partition: START})


def home(id: str) -> int:
    partition: int = DefaultPartitioner()(id.encode(), [0, 1], [0, 1])
    return partition


async def test_a_file_is_archived_part_by_part_and_each_part_once(backfill: Backfill, store: Store) -> None:
    first, second = [a_row("r1"), a_row("r2", 1)], [a_row("r3", 2)]
    for part in (a_part(first), a_part(first), a_part(second, after=2), a_part(second, after=2)):
        await backfill.take("rides", part)

    assert archived(store, "row_id", "id", "event_time_ms") == [
        {"row_id": f"r{n}", "id": f"{FILE[:16]}/{n}", "event_time_ms": START + (n - 1) * HOUR}
        for n in (1, 2, 3)
    ]
    assert (await backfill.take("rides", Sent(FILE, 0, 0, [], [], []))).until == 3


async def test_history_stands_before_the_stream_and_leaves_its_progress_alone(
    backfill: Backfill, store: Store, book: SpecBook
) -> None:
    stream(store, book, ["s1", "s2", "s3"], hour=9)
    before = store.reach("events/rides", 2)
    offsets = store.offsets("events/rides", before.version, "events.rides", 2)
    await backfill.take("rides", a_part([a_row("r1"), a_row("r2")]))
    await backfill.take("rides", a_part([a_row("r3")], file=OTHER))

    rows = archived(store, "row_id", "offset", "partition")
    after = store.reach("events/rides", 2)
    assert [row["row_id"] for row in rows[:3]] == ["r1", "r2", "r3"]
    assert len({row["offset"] for row in rows[:3]}) == 3
    assert all(row["offset"] < 0 for row in rows[:3])
    assert [row["partition"] for row in rows] == [home(row["row_id"]) for row in rows]
    assert after.watermark_ms == before.watermark_ms
    assert store.offsets("events/rides", after.version, "events.rides", 2) == offsets


async def test_a_part_with_rows_that_are_refused_is_not_taken_until_they_are_left_out(
    backfill: Backfill, store: Store
) -> None:
    rows = [a_row("r1"), a_row("r2", zone=0), {"at": iso(START)}]
    refused = await backfill.take("rides", a_part(rows))

    assert [(number, [why.code for why in reasons]) for number, reasons in refused.refused] == [
        (2, ["out_of_range"]),
        (3, ["missing_field"]),
    ]
    assert (refused.until, store.reach("events/rides", 2).version) == (0, -1)
    taken = await backfill.take("rides", a_part(rows, skip=(2, 3)))
    assert (taken.until, taken.refused) == (3, ())
    assert archived(store, "row_id") == [{"row_id": "r1"}]


async def test_lateness_is_judged_by_the_arrival_that_is_stated(backfill: Backfill) -> None:
    on_time = await backfill.take("rides", a_part([a_row("r1")], late_h=1))
    late = await backfill.take("rides", a_part([a_row("r2")], late_h=2, file=OTHER))

    assert on_time.until == 1
    assert [why.code for _, reasons in late.refused for why in reasons] == ["late"]


async def test_rows_are_cleaned_as_the_contract_says(backfill: Backfill, store: Store) -> None:
    await backfill.take("rides", a_part([a_row("r1", zone=-1, town="  Bern ")]))

    assert archived(store, "zone", "town") == [{"zone": None, "town": "Bern"}]


async def test_a_value_that_may_come_once_comes_once(
    backfill: Backfill, store: Store, book: SpecBook
) -> None:
    stream(store, book, ["s"], hour=10)
    first = await backfill.take("rides", a_part([a_row("r"), a_row("r", 1), a_row("r", 3.5), a_row("q")]))
    second = await backfill.take("rides", a_part([a_row("r", 6), a_row("q", 4), a_row("s", 8)], after=4))
    other = await backfill.take("rides", a_part([a_row("q", 2), a_row("n", 2)], file=OTHER))

    assert [first.repeats, second.repeats, other.repeats] == [1, 2, 1]
    times = [
        (row["row_id"], (row["event_time_ms"] - START) / HOUR)
        for row in archived(store, "row_id", "event_time_ms")
    ]
    assert times == [("r", 0), ("r", 3.5), ("q", 0), ("q", 4), ("n", 2), ("s", 10)]


@pytest.mark.parametrize(
    "sent",
    [
        Sent(FILE, 0, 2, [1, 2], [b"{}"], [0]),
        Sent(FILE, 0, 2, [2, 1], [b"{}"] * 2, [0] * 2),
        Sent(FILE, 0, 2, [3], [b"{}"], [0]),
        Sent(FILE, 4, 2, [], [], []),
        Sent("", 0, 2, [1], [b"{}"], [0]),
    ],
)
async def test_a_part_that_contradicts_itself_is_refused(backfill: Backfill, sent: Sent) -> None:
    with pytest.raises(BadPart):
        await backfill.take("rides", sent)


async def test_a_part_that_does_not_follow_what_is_there_is_refused(backfill: Backfill) -> None:
    await backfill.take("rides", a_part([a_row("r1"), a_row("r2")]))

    for after in (1, 3):
        with pytest.raises(
            OtherPart, match=rf"behind row {after}, and source 'rides' has the file up to row 2"
        ):
            await backfill.take("rides", a_part([a_row("r3"), a_row("r4")], after=after))
    with pytest.raises(UnknownSource):
        await backfill.take("none", a_part([a_row("r1")]))


async def test_a_file_that_the_stream_has_had_is_refused(
    backfill: Backfill, store: Store, book: SpecBook
) -> None:
    table = EventTable(book.source("rides").spec)
    rows = Rows(
        [msgspec.json.encode(a_row("r2"))], [f"{FILE[:16]}/2"], np.array([START]), np.array([START]), [0]
    )
    store.append("events/rides", table.schema, [Piece("events.rides", 0, table.batch(rows, 0), 0)], {})

    with pytest.raises(SentBefore, match="trimtab ingest"):
        await backfill.take("rides", a_part([a_row("r1"), a_row("r2")]))


async def test_two_processes_that_take_files_and_archive_events_lose_and_double_nothing(
    tmp_path: Path, book: SpecBook
) -> None:
    one, other, archive = DeltaStore(tmp_path), DeltaStore(tmp_path), DeltaStore(tmp_path)
    taken: list[Taken] = []
    for n in range(6):
        for store, file in ((one, FILE), (other, OTHER)):
            part = a_part([a_row(f"{file[0]}{n}", n)], after=n, file=file)
            taken.append(await Backfill(book, store).take("rides", part))
        if n == 3:
            stream(archive, book, ["s1", "s2"], hour=30)

    rows = archived(archive, "row_id", "offset")
    assert [each.until for each in taken] == [n for n in range(1, 7) for _ in range(2)]
    assert sorted(row["row_id"] for row in rows) == sorted(
        ["s1", "s2", *(f"{f}{n}" for f in "ab" for n in range(6))]
    )
    assert len({row["offset"] for row in rows if row["offset"] < 0}) == 12


async def test_the_newest_of_the_archive_is_told_where_no_part_is_sent(backfill: Backfill) -> None:
    nothing = Sent(FILE, 0, 0, [], [], [])
    before = await backfill.take("rides", nothing)
    await backfill.take("rides", a_part([a_row("r1", 5), a_row("r2", 2)]))

    assert (before.until, before.newest_ms) == (0, None)
    assert (await backfill.take("rides", nothing)).newest_ms == START + 5 * HOUR
