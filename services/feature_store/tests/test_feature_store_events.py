"""Archived events, whole or as a sample: typed as the contract says, and the same each time."""

import asyncio
from datetime import UTC, datetime
from typing import Any

import msgspec
import numpy as np
import pyarrow as pa
import pytest
from trimtab_core import specs
from trimtab_feature_store import events
from trimtab_feature_store.errors import BadQuestion, BadWindow
from trimtab_feature_store.events import EventReader, Extent
from trimtab_feature_store.rows import Rows
from trimtab_feature_store.store import Piece
from trimtab_feature_store.tables import EventTable, events_table
from trimtab_feature_store.testing import MemoryStore
from trimtab_runtime.specbook import SpecBook, UnknownSource

ROWS = 1_000
SPEC = {
    "key": "id",
    "event_time": "at",
    "lateness": "1h",
    "partitions": 1,
    "fields": {
        "id": {"type": "string"},
        "at": {"type": "timestamp", "timezone": "America/New_York"},
        "x": {"type": "number", "nullable": True},
    },
}


class World:
    """A source `s`, and what is archived of it."""

    def __init__(self) -> None:
        self.book = SpecBook()
        source = specs.parse("Source", {"metadata": {"name": "s"}, "spec": SPEC})
        assert isinstance(source, specs.Source)
        self.book.put(source)
        self.table = EventTable(source.spec)
        self.store = MemoryStore()

    def archive(self, numbers: list[int], first_offset: int = 0) -> None:
        """Archive rows, the n-th of which happened n seconds after the epoch, as one piece."""
        payloads = [
            msgspec.json.encode({"id": f"r{n}", "at": "2020-01-01T12:00:00", "x": n / 2}) for n in numbers
        ]
        times = np.array(numbers, np.int64) * 1000
        offsets = list(range(first_offset, first_offset + len(numbers)))
        rows = self.table.batch(Rows(payloads, [f"e{n}" for n in numbers], times, times + 1, offsets), 0)
        self.store.append(
            events_table("s"), self.table.schema, [Piece("events.s", 0, rows, offsets[-1])], {0: 7_000}
        )

    def read(self, *times: int, **more: Any) -> tuple[Extent, pa.Table]:
        return asyncio.run(EventReader(self.book, self.store).read("s", *times, **more))


@pytest.fixture
def world() -> World:
    return World()


def test_events_have_the_fields_of_their_contract_under_its_names_and_times_as_times(world: World) -> None:
    world.archive([3])

    extent, found = world.read()

    assert extent == Extent("events/s", 1, 1, 3_000, 3_000, 7_000)
    assert found.to_pylist() == [
        {
            "id": "r3",
            "at": datetime(2020, 1, 1, 17, tzinfo=UTC),
            "x": 1.5,
            "event.id": "e3",
            "event.time": datetime(1970, 1, 1, 0, 0, 3, tzinfo=UTC),
            "event.arrived_at": datetime(1970, 1, 1, 0, 0, 3, 1_000, tzinfo=UTC),
        }
    ]


def test_a_range_is_told_whole_though_a_sample_is_read(world: World) -> None:
    world.archive(list(range(ROWS)))

    extent, found = world.read(100_000, 600_000, most_rows=50)

    assert (extent.rows, extent.first_ms, extent.last_ms) == (500, 100_000, 599_000)
    times = found["event.time"].cast(pa.int64()).to_pylist()
    assert len(times) == len(set(times)) == 50
    assert times == sorted(times)


def test_a_sample_is_the_same_however_the_rows_are_stored(world: World) -> None:
    other = World()
    world.archive(list(range(ROWS)))
    for begin in range(0, ROWS, 100):
        other.archive(list(range(begin, begin + 100)), first_offset=begin)
    backwards = World()
    backwards.archive(list(range(ROWS - 1, -1, -1)))

    samples = [each.read(most_rows=20)[1]["id"].to_pylist() for each in (world, world, other, backwards)]

    assert samples[1:] == samples[:1] * 3
    assert kept(world, 10) < kept(world, 20)


def kept(world: World, most: int) -> set[str]:
    return set(world.read(most_rows=most)[1]["id"].to_pylist())


def test_a_sample_favours_no_part_of_the_range(world: World) -> None:
    world.archive(list(range(ROWS)))

    quarters = np.bincount([int(each[1:]) * 4 // ROWS for each in kept(world, 400)], minlength=4)

    assert quarters.min() > 70, quarters  # of 100 expected, by hashes that stay what they are


def test_the_extent_alone_can_be_asked_for(world: World) -> None:
    world.archive([3, 9])

    extent, found = world.read(most_rows=0)

    assert (extent.rows, extent.first_ms, extent.last_ms) == (2, 3_000, 9_000)
    assert (found.num_rows, found.column_names[0]) == (0, "id")


def test_where_nothing_is_archived_there_are_no_rows_and_that_is_told(world: World) -> None:
    extent, found = world.read()
    assert extent == Extent("events/s", -1, 0, None, None, 0)
    assert found.num_rows == 0

    world.archive([3])
    extent, found = world.read(4_000, 5_000)
    assert (extent.rows, extent.first_ms, extent.version, found.num_rows) == (0, None, 1, 0)


def test_a_question_that_makes_no_sense_is_refused(world: World) -> None:
    with pytest.raises(BadWindow):
        world.read(5, 5)
    with pytest.raises(BadQuestion, match=f"most_rows is {events.MOST_ROWS + 1}"):
        world.read(most_rows=events.MOST_ROWS + 1)
    with pytest.raises(UnknownSource, match="there is no source 'other'"):
        asyncio.run(EventReader(world.book, world.store).read("other"))
