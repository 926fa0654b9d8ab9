"""Training sets on a real Ray cluster of this machine: the same rows, and one sentence where there is none."""

import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

import msgspec
import numpy as np
import pyarrow as pa
import pytest
from trimtab_core import specs
from trimtab_core.pointintime import point_in_time
from trimtab_core.slots import Layout
from trimtab_feature_store import onray
from trimtab_feature_store.historical import Historical, Making, Plan, TrainingSet, Wanted
from trimtab_feature_store.onray import OnRay
from trimtab_feature_store.rows import Rows
from trimtab_feature_store.sharding import Shard, ShardedJoin, one_by_one
from trimtab_feature_store.store import EVER_MS, DeltaStore, Piece
from trimtab_feature_store.tables import EventTable, events_table
from trimtab_runtime import cluster
from trimtab_runtime.clock import iso
from trimtab_runtime.cluster import RayAway
from trimtab_runtime.reftables import RefTables
from trimtab_runtime.specbook import SpecBook
from trimtab_stack import ports

HOUR = 3_600_000
START = 420_000 * HOUR
FIELDS = {
    "id": {"type": "string"},
    "at": {"type": "timestamp"},
    "zone": {"type": "integer", "nullable": True},
    "mph": {"type": "number", "nullable": True},
}
A_SHARD = 400
FUNCTIONS = ["count", "mean", "stddev", "last", "p50", "distinct_count"]


def a_book() -> SpecBook:
    contract = {"key": "id", "event_time": "at", "lateness": "2h", "partitions": 1, "fields": FIELDS}
    fold = {
        "source": "rides",
        "hop": "1h",
        "ttl": "1d",
        "aggregates": [{"field": "mph", "functions": FUNCTIONS, "windows": ["1h", "4h"]}],
    }
    model = {
        "task": "regression",
        "source": "rides",
        "features": [
            "speed.*",
            "city.*",
            "request.zone",
            "hour(at)",
            "share = request.zone / speed.mph_mean_4h",
        ],
        "label": {"source": "rides", "on": "id", "value": "mph", "within": "3h"},
        "trainer": {"kind": "linear", "window": "1d"},
        "rollout": {"cap": 60},
    }
    book = SpecBook()
    for kind, name, spec in (
        ("Source", "rides", contract),
        ("FeatureView", "speed", {**fold, "entity": "zone"}),
        ("FeatureView", "city", fold),
        ("Model", "m", model),
    ):
        book.put(specs.parse(kind, {"metadata": {"name": name}, "spec": spec}))
    return book


class Archived:
    """Rides in a Delta table, late ones and some of no zone among them, and who makes sets of them."""

    def __init__(self, folder: Path, book: SpecBook, count: int) -> None:
        rng, self.book, self.tables = np.random.default_rng(5), book, DeltaStore(folder)
        times = np.sort(START + rng.integers(0, 20 * HOUR, count))
        zones = [None if zone == 0 else zone for zone in rng.integers(0, 40, count).tolist()]
        speeds = [None if mph < 5 else mph for mph in rng.uniform(0, 80, count).tolist()]
        rides = zip(range(count), times.tolist(), zones, speeds, strict=True)
        payloads = [
            msgspec.json.encode({"id": f"r-{n}", "at": iso(at), "zone": zone, "mph": mph})
            for n, at, zone, mph in rides
        ]
        table = EventTable(book.source("rides").spec)
        arrived = times + rng.integers(0, 2 * HOUR, count)
        rows = table.batch(
            Rows(payloads, [f"raw/{n}" for n in range(count)], times, arrived, list(range(count))), 0
        )
        piece = Piece("events.rides", 0, rows, count - 1)
        self.tables.append(events_table("rides"), table.schema, [piece], {0: START + 30 * HOUR})

    @contextmanager
    def hurried(self, sources: Any) -> Iterator[None]:
        yield

    def here(self, plan: Plan) -> TrainingSet:
        return Making(self.tables, plan, ShardedJoin(rows_a_shard=A_SHARD)).make()

    async def make(self, on_ray: OnRay | None = None) -> TrainingSet:
        historical = Historical(
            self.book, self.tables, self, RefTables(self.book), on_ray.make if on_ray else self.here
        )
        wanted = Wanted("m", START, START + 20 * HOUR, EVER_MS, 0)
        return await historical.training_set(wanted, patience_s=60.0)


@pytest.fixture
def archived(tmp_path: Path) -> Archived:
    return Archived(tmp_path, a_book(), 3_000)


@pytest.mark.real
async def test_a_set_made_on_ray_is_the_one_that_is_made_here(
    archived: Archived, tmp_path: Path, ray_address: str
) -> None:
    here = await archived.make()
    there = await archived.make(OnRay(ray_address, DeltaStore(tmp_path), A_SHARD))

    assert there.digest == here.digest
    assert there.rows.schema.equals(here.rows.schema)
    assert (there.rows_without_label, there.versions) == (here.rows_without_label, here.versions)
    assert here.rows.num_rows > 2_500


async def test_without_a_cluster_the_asker_is_told_in_a_sentence(archived: Archived, tmp_path: Path) -> None:
    address = f"127.0.0.1:{ports.choose()}"
    with pytest.raises(RayAway, match=f"^Ray at {address} cannot be used: [^\n]+$"):
        await archived.make(OnRay(address, DeltaStore(tmp_path), A_SHARD))


def test_without_ray_the_asker_is_told_what_to_install(
    archived: Archived, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cluster, "_ENVIRON", {})
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(RayAway, match=r"is not installed here, install trimtab-feature-store\[ray\]"):
        onray._made("127.0.0.1:1", archived.tables, cast(Any, None), A_SHARD)


@pytest.mark.parametrize("rows", [1_000, 100, 1])
def test_shards_together_say_what_the_join_says(rows: int) -> None:
    book, rng = a_book(), np.random.default_rng(3)
    layout = Layout.of(book.view("speed").spec, book.source("rides").spec.lateness)
    zones, asked = (pa.array([f"z-{each}" for each in rng.integers(0, 9, size)]) for size in (400, 300))
    times, at = START + rng.integers(0, 9 * HOUR, 400), START + rng.integers(0, 12 * HOUR, 300)
    values = rng.uniform(0, 80, (400, len(layout.groups)))
    values[rng.random(values.shape) < 0.1] = np.nan
    arguments = layout, zones, times, values, times + HOUR, asked, at, [f"r-{n}" for n in range(400)]
    entities: list[set[str]] = []

    def run(shards: Iterable[Shard]) -> Iterator[Any]:
        for shard in shards:
            entities.append(set(shard[5].to_pylist()))
            assert set(shard[1].to_pylist()) <= entities[-1]
            yield from one_by_one([shard])

    found = ShardedJoin(run, rows)(*arguments)

    np.testing.assert_allclose(found, point_in_time(*arguments), rtol=1e-12)
    assert sum(map(len, entities)) == 9
    assert (len(entities) > 1) == (rows < 400)


def test_of_nothing_there_is_nothing() -> None:
    book = a_book()
    layout = Layout.of(book.view("speed").spec, book.source("rides").spec.lateness)
    none, times = pa.array([], pa.string()), np.array([], np.int64)
    values = np.empty((0, len(layout.groups)))

    found = ShardedJoin()(layout, none, times, values, times, none, times)
    assert found.shape == (0, len(layout.columns))
    found = ShardedJoin()(layout, none, times, values, times, pa.array(["7"]), np.array([START]))
    assert found[0, 0] == 0
