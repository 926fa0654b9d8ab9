"""What goes from the archive in time, and what stays for those who use it."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pyarrow as pa
import pytest
from deltalake import DeltaTable
from trimtab_contracts import topics
from trimtab_contracts.registry.v1.registry_pb2 import Candidate, Deployment, TableVersion, VersionRef
from trimtab_contracts.training.v1.training_pb2 import RunEvent
from trimtab_core import specs
from trimtab_feature_store.errors import VersionGone
from trimtab_feature_store.pins import Pins
from trimtab_feature_store.store import DeltaStore, Piece
from trimtab_feature_store.upkeep import Upkeep
from trimtab_runtime.clock import ManualClock, to_timestamp
from trimtab_runtime.specbook import SpecBook

DAY = 86_400_000
SCHEMA = pa.schema([("event_time_ms", pa.int64()), ("offset", pa.int64())])
TABLE = "events/rides"


def some(first: int, last: int) -> Piece:
    """Rows of one partition, one a day."""
    numbers = list(range(first, last + 1))
    rows = pa.RecordBatch.from_pydict(
        {"event_time_ms": [n * DAY for n in numbers], "offset": numbers}, schema=SCHEMA
    )
    return Piece("events.rides", 0, rows, last)


def days(store: DeltaStore, version: int | None = None) -> list[int]:
    at = store.reach(TABLE, 1).version if version is None else version
    found = store.read(TABLE, ["offset"], version=at, start_ms=0, end_ms=1000 * DAY)
    return sorted(found["offset"].to_pylist())


def an_upkeep(store: DeltaStore, *pinned: int, keep: str | None = "10d", owns: bool = True) -> Upkeep:
    fields = {"id": {"type": "string"}, "at": {"type": "timestamp"}}
    spec = {
        "key": "id",
        "event_time": "at",
        "lateness": "1h",
        "partitions": 1,
        "keep": keep,
        "fields": fields,
    }
    book = SpecBook()
    book.put(specs.parse("Source", {"metadata": {"name": "rides"}, "spec": spec}))
    pins = SimpleNamespace(of=lambda table: set(pinned))
    return Upkeep(
        book, store, pins, lambda topic: owns, ManualClock(50 * DAY), version_hours=0, predictions_days=20
    )


async def test_events_go_once_the_watermark_is_so_far_past_them(tmp_path: Path) -> None:
    store = DeltaStore(tmp_path)
    store.append(TABLE, SCHEMA, [some(0, 29)], {0: 25 * DAY})
    await an_upkeep(store).once()
    await an_upkeep(store).once()

    assert days(store) == list(range(15, 30))
    version = store.reach(TABLE, 1)
    assert version.least() == 25 * DAY
    assert store.offsets(TABLE, version.version, "events.rides", 1) == [29]


async def test_what_is_kept_for_ever_stays_and_so_does_what_another_process_sees_to(tmp_path: Path) -> None:
    store = DeltaStore(tmp_path)
    store.append(TABLE, SCHEMA, [some(0, 29)], {0: 25 * DAY})
    await an_upkeep(store, keep=None).once()
    await an_upkeep(store, owns=False).once()

    assert days(store) == list(range(30))


async def test_whoever_archives_meanwhile_goes_on_where_it_was(tmp_path: Path) -> None:
    archive, other = DeltaStore(tmp_path), DeltaStore(tmp_path)
    archive.append(TABLE, SCHEMA, [some(0, 19)], {0: 19 * DAY})
    await an_upkeep(other).once()
    archive.append(TABLE, SCHEMA, [some(10, 24)], {0: 24 * DAY})  # it has not seen what went
    await an_upkeep(other).once()

    assert days(archive) == list(range(14, 25))
    assert archive.reach(TABLE, 1).least() == 24 * DAY


async def test_a_version_in_use_reads_the_same_and_others_say_that_they_are_gone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("trimtab_feature_store.store._COMPACT_EVERY", 4)
    store = DeltaStore(tmp_path)
    versions = []
    for number in range(12):
        store.append(TABLE, SCHEMA, [some(number, number)], {0: number * DAY})
        versions.append(store.reach(TABLE, 1).version)
    store.append(TABLE, SCHEMA, [some(12, 29)], {0: 29 * DAY})
    used, unused = versions[5], versions[7]
    await an_upkeep(store, used, 10_000).once()

    assert days(store, used) == list(range(6))
    assert days(store) == list(range(19, 30))
    with pytest.raises(VersionGone, match=f"version {unused} of table {TABLE} is not kept any more"):
        days(store, unused)
    with pytest.raises(VersionGone, match="version 9999"):
        days(store, 9999)


async def test_files_that_are_removed_no_longer_ago_than_versions_are_kept_stay(tmp_path: Path) -> None:
    store = DeltaStore(tmp_path)
    store.append(TABLE, SCHEMA, [some(0, 29)], {0: 25 * DAY})
    then = store.reach(TABLE, 1).version
    store.expire(TABLE, "event_time_ms", 15 * DAY)

    assert store.vacuum(TABLE, 24 * 30, set()) == 0
    assert days(store, then) == list(range(30))
    kept = DeltaTable(str(tmp_path / "delta" / TABLE)).metadata().configuration
    assert kept["delta.deletedFileRetentionDuration"] == "interval 720 hours"


async def test_predictions_go_by_when_they_were_answered(tmp_path: Path) -> None:
    store = DeltaStore(tmp_path)
    schema = pa.schema([("answered_ms", pa.int64()), ("event_time_ms", pa.int64()), ("offset", pa.int64())])
    rows = pa.RecordBatch.from_pydict(
        {"answered_ms": [29 * DAY, 31 * DAY, None], "event_time_ms": [1, 2, 3], "offset": [0, 1, 2]},
        schema=schema,
    )
    store.append("predictions", schema, [Piece("predictions", 0, rows, 2)], {})
    await an_upkeep(store).once()

    version = store.reach("predictions", 1).version
    left = store.read("predictions", ["offset"], version=version, start_ms=0, end_ms=10)
    assert sorted(left["offset"].to_pylist()) == [1, 2]


def a_record(topic: topics.Topic[Any], message: Any, key: str = "m") -> Any:
    value = None if message is None else topic.encode(message)
    return SimpleNamespace(key=key.encode(), value=value, offset=0)


def named(*versions: int) -> list[TableVersion]:
    return [TableVersion(table=TABLE, version=version) for version in versions]


async def test_versions_are_in_use_that_runs_and_deployments_name() -> None:
    clock = ManualClock(100 * DAY)
    pins = Pins("nowhere", clock)
    runs = [
        RunEvent(run_id=run, status=status, at=to_timestamp(at), candidate=Candidate(tables=named(version)))
        for run, status, at, version in (
            ("old", RunEvent.SUCCEEDED, 5 * DAY, 1),
            ("new", RunEvent.SUCCEEDED, 50 * DAY, 2),
            ("failed", RunEvent.FAILED, 60 * DAY, 3),
        )
    ]
    await pins.hear("runs", 0, [a_record(topics.RUNS, each) for each in runs])
    await pins.hear("runs", 0, [SimpleNamespace(key=b"m", value=b"rubbish", offset=3)])
    live = Deployment(
        champion=VersionRef(tables=named(4)),
        challenger=VersionRef(tables=named(5)),
        previous=VersionRef(tables=named(6)),
    )
    await pins.hear("deployments", 0, [a_record(topics.DEPLOYMENTS, live)])

    assert pins.of(TABLE) == {2, 4, 5, 6}
    assert pins.of("events/asks") == set()
    await pins.hear(
        "deployments", 0, [a_record(topics.DEPLOYMENTS, Deployment(champion=VersionRef(tables=named(5))))]
    )
    assert pins.of(TABLE) == {2, 5}
    clock.advance(45 * DAY)
    await pins.hear("deployments", 0, [a_record(topics.DEPLOYMENTS, None)])
    assert pins.of(TABLE) == set()
