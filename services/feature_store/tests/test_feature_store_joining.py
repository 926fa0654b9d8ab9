"""Features of entities in the past, each at a time of its own, over an archive in memory."""

import asyncio
from collections.abc import Sequence
from typing import Any, cast

import msgspec
import numpy as np
import pytest
from trimtab_core import specs
from trimtab_feature_store.errors import BadQuestion
from trimtab_feature_store.joining import Joined, Joining
from trimtab_feature_store.online import InMemory, OnlineViews
from trimtab_feature_store.rows import Rows
from trimtab_feature_store.store import Piece
from trimtab_feature_store.tables import EventTable, events_table
from trimtab_feature_store.testing import MemoryStore
from trimtab_runtime.clock import iso
from trimtab_runtime.specbook import SpecBook

HOUR = 3_600_000
START = 420_000 * HOUR
FIELDS = {
    "id": {"type": "string"},
    "at": {"type": "timestamp"},
    "zone": {"type": "integer", "nullable": True},
    "mph": {"type": "number"},
}
RIDES = {"key": "id", "event_time": "at", "lateness": "2h", "partitions": 1, "fields": FIELDS}
SPEED = {
    "source": "rides",
    "hop": "1h",
    "ttl": "1d",
    "aggregates": [{"field": "mph", "functions": ["count", "mean"], "windows": ["4h"]}],
}


class World:
    """Rides, a mile an hour faster each hour, in zones 0 and 1 by turns; the archive is whole up to hour 8."""

    def __init__(self) -> None:
        self.book = SpecBook()
        for kind, name, spec in (
            ("Source", "rides", RIDES),
            ("FeatureView", "speed", SPEED | {"entity": "zone"}),
            ("FeatureView", "city", SPEED),
        ):
            self.book.put(specs.parse(kind, {"metadata": {"name": name}, "spec": spec}))
        self.store = MemoryStore()
        self.views = OnlineViews("", self.book, cast(Any, None), InMemory())
        table = EventTable(self.book.source("rides").spec)
        times = START + np.arange(8) * HOUR + 5
        payloads = [
            msgspec.json.encode({"id": f"r{h}", "at": iso(at), "zone": h % 2, "mph": 10.0 + h})
            for h, at in enumerate(times.tolist())
        ]
        late = times + np.where(np.arange(8) == 3, 2 * HOUR, 0)
        rows = table.batch(Rows(payloads, [f"r{h}" for h in range(8)], times, late, list(range(8))), 0)
        marks = {0: START + 8 * HOUR}
        self.store.append(events_table("rides"), table.schema, [Piece("events.rides", 0, rows, 7)], marks)

    def join(self, features: Sequence[str], entities: dict[str, list[str]], at_ms: Sequence[int]) -> Joined:
        return asyncio.run(Joining(self.book, self.store).join(self.views.plan(features), entities, at_ms))


@pytest.fixture(scope="module")
def world() -> World:
    return World()


def test_each_row_is_joined_as_of_its_own_time_and_by_its_own_entity(world: World) -> None:
    at = [START + 2 * HOUR, START + 6 * HOUR, START + 6 * HOUR, START + 6 * HOUR]
    zones = {"zone": ["0", "0", "1", "\0"]}

    found = world.join(["speed.mph_mean_4h", "city.mph_count_4h", "speed.mph_count_4h"], zones, at)

    np.testing.assert_allclose(found.values, [[10, 2, 1], [13, 4, 2], [14, 4, 2], [np.nan, 4, 0]])


def test_what_had_not_arrived_by_a_rows_time_is_not_seen_by_it(world: World) -> None:
    late = [START + 4 * HOUR, START + 6 * HOUR]  # the ride of hour 3 came two hours late

    found = world.join(["speed.mph_count_4h"], {"zone": ["1", "1"]}, late)

    assert found.values.ravel().tolist() == [1, 2]


def test_rows_past_what_is_archived_have_no_values_and_the_answer_says_where_that_begins(
    world: World,
) -> None:
    found = world.join(["city.mph_count_4h"], {}, [START + 8 * HOUR, START + 8 * HOUR + 1])

    np.testing.assert_array_equal(found.values, [[4], [np.nan]])
    assert found.until_ms == START + 8 * HOUR


def test_nothing_is_joined_while_the_archive_says_of_nothing_that_it_is_whole(world: World) -> None:
    empty = World()
    empty.store = MemoryStore()

    found = empty.join(["city.mph_count_4h"], {}, [START])

    assert (found.until_ms, np.isnan(found.values).all()) == (0, True)


def test_as_many_times_are_sent_as_entities(world: World) -> None:
    with pytest.raises(BadQuestion, match="2 entities and 1 times"):
        world.join(["speed.mph_count_4h"], {"zone": ["0", "1"]}, [START])
