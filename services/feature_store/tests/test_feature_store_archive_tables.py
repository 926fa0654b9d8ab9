"""The archive's tables: the same promises from the real one and from the one in memory."""

from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pyarrow as pa
import pytest
from deltalake import DeltaTable
from trimtab_contracts.serving.v1.serving_pb2 import OtherAnswers, PredictionBatch
from trimtab_core.specs import SourceSpec
from trimtab_feature_store import tables
from trimtab_feature_store.errors import ArchiveConflict
from trimtab_feature_store.rows import Rows
from trimtab_feature_store.store import DeltaStore, Piece
from trimtab_feature_store.testing import MemoryStore
from trimtab_runtime.errors import Unavailable

SPEC = SourceSpec.model_validate(
    {
        "key": "id",
        "event_time": "at",
        "lateness": "1h",
        "fields": {
            "id": {"type": "string"},
            "at": {"type": "timestamp"},
            "class": {"type": "integer", "nullable": True},
            "mph": {"type": "number", "nullable": True},
            "fast": {"type": "boolean", "nullable": True},
        },
    }
)
TABLE = tables.EventTable(SPEC)


@pytest.fixture(params=["delta", "memory"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> DeltaStore | MemoryStore:
    return DeltaStore(tmp_path) if request.param == "delta" else MemoryStore()


def a_row(number: int, **fields: Any) -> bytes:
    return msgspec.json.encode(
        {"id": f"t{number}", "at": "2020-01-01T00:00:00Z", "class": number, "mph": 5, **fields}
    )


def some_rows(first: int, last: int) -> Rows:
    numbers = range(first, last + 1)
    times = np.array([number * 1000 for number in numbers], np.int64)
    return Rows(
        [a_row(n) for n in numbers], [f"raw.s/0/{n}" for n in numbers], times, times + 1, list(numbers)
    )


def a_piece(first: int, last: int, partition: int = 0) -> Piece:
    return Piece("events.s", partition, TABLE.batch(some_rows(first, last), partition), last)


def offsets(store: DeltaStore | MemoryStore, version: int | None = None) -> list[int]:
    version = store.reach("events/s", 1).version if version is None else version
    found = store.read("events/s", ["offset"], version=version, start_ms=0, end_ms=10**9, arrived_by_ms=10**9)
    return sorted(found["offset"].to_pylist())


def test_what_is_appended_twice_is_there_once(store: DeltaStore | MemoryStore) -> None:
    store.append("events/s", TABLE.schema, [a_piece(0, 4)], {})
    store.append("events/s", TABLE.schema, [a_piece(2, 7)], {})
    store.append("events/s", TABLE.schema, [a_piece(0, 7)], {})

    assert offsets(store) == [0, 1, 2, 3, 4, 5, 6, 7]


def test_a_scan_yields_what_a_read_returns_with_nulls_for_what_is_not_there(
    store: DeltaStore | MemoryStore,
) -> None:
    columns = ["none", "mph", "id"]
    store.append("events/s", TABLE.schema, [a_piece(0, 4)], {})
    store.append("events/s", TABLE.schema, [a_piece(5, 9)], {})
    version = store.reach("events/s", 1).version

    batches = list(store.scan("events/s", columns, version=version, start_ms=2_000, end_ms=7_000))

    found = pa.Table.from_batches(batches).sort_by("id")
    assert found.to_pydict() == {
        "none": [None] * 5, "mph": [5] * 5, "id": [f"raw.s/0/{number}" for number in range(2, 7)],
    }  # fmt: skip
    assert list(store.scan("events/none", columns, version=-1, start_ms=0, end_ms=9)) == []


def test_partitions_are_told_apart(store: DeltaStore | MemoryStore) -> None:
    store.append("events/s", TABLE.schema, [a_piece(0, 2), a_piece(0, 1, partition=1)], {0: 50, 1: 40})

    assert offsets(store) == [0, 0, 1, 1, 2]
    assert store.reach("events/s", 2).watermark_ms == {0: 50, 1: 40}
    assert store.reach("events/s", 2).least() == 40
    assert store.reach("events/s", 3).least() == 0


def test_a_watermark_moves_on_without_rows_and_never_back(store: DeltaStore | MemoryStore) -> None:
    store.append("events/s", TABLE.schema, [a_piece(0, 0)], {0: 50})
    store.append("events/s", TABLE.schema, [], {0: 70})
    store.append("events/s", TABLE.schema, [], {0: 60})

    assert store.reach("events/s", 1).least() == 70


def test_a_version_is_what_it_was_when_it_was_the_newest(store: DeltaStore | MemoryStore) -> None:
    store.append("events/s", TABLE.schema, [a_piece(0, 3)], {})
    then = store.reach("events/s", 1).version
    store.append("events/s", TABLE.schema, [a_piece(4, 9)], {})

    assert offsets(store, then) == [0, 1, 2, 3]


def test_a_version_says_how_far_it_had_come_and_no_further(store: DeltaStore | MemoryStore) -> None:
    store.append("events/s", TABLE.schema, [a_piece(0, 3)], {0: 50})
    then = store.reach("events/s", 2)
    nothing = Piece("events.s", 1, a_piece(0, 0).rows.slice(0, 0), 7)
    store.append("events/s", TABLE.schema, [a_piece(4, 9), nothing], {0: 70})
    now = store.reach("events/s", 2)

    assert (then.watermark_ms, now.watermark_ms) == ({0: 50, 1: 0}, {0: 70, 1: 0})
    assert store.offsets("events/s", then.version, "events.s", 2) == [3, -1]
    assert store.offsets("events/s", now.version, "events.s", 2) == [9, 7]
    assert store.offsets("events/s", then.version, "events.other", 1) == [-1]
    assert store.offsets("events/none", -1, "events.s", 2) == [-1, -1]


def test_offsets_that_hold_no_row_make_a_version_as_well(store: DeltaStore | MemoryStore) -> None:
    nothing = Piece("events.s", 0, a_piece(0, 0).rows.slice(0, 0), 7)
    for _ in range(2):
        store.append("events/s", TABLE.schema, [nothing], {})

    version = store.reach("events/s", 1).version
    assert version == 1
    assert store.offsets("events/s", version, "events.s", 1) == [7]


def test_rows_are_read_by_event_time_and_by_arrival(store: DeltaStore | MemoryStore) -> None:
    store.append("events/s", TABLE.schema, [a_piece(0, 9)], {})
    version = store.reach("events/s", 1).version

    by_time = store.read("events/s", ["id"], version=version, start_ms=2000, end_ms=5000, arrived_by_ms=10**9)
    by_arrival = store.read("events/s", ["id"], version=version, start_ms=0, end_ms=10**9, arrived_by_ms=1001)

    assert by_time["id"].to_pylist() == ["raw.s/0/2", "raw.s/0/3", "raw.s/0/4"]
    assert by_arrival["id"].to_pylist() == ["raw.s/0/0", "raw.s/0/1"]


def test_a_table_or_a_column_that_is_not_there_reads_as_nothing(store: DeltaStore | MemoryStore) -> None:
    store.append("events/s", TABLE.schema, [a_piece(0, 1)], {})
    wide = {"start_ms": 0, "end_ms": 10**9, "arrived_by_ms": 10**9}

    assert store.reach("events/none", 2).least() == 0
    assert store.read("events/none", ["id"], version=-1, **wide).num_rows == 0
    assert store.read("events/s", ["new"], version=1, **wide)["new"].to_pylist() == [None, None]


@pytest.mark.parametrize("broken", ["empty", "no Parquet", "no footer", "no pages"])
def test_a_file_that_is_broken_makes_its_table_unavailable(tmp_path: Path, broken: str) -> None:
    store = DeltaStore(tmp_path)
    store.append("events/s", TABLE.schema, [a_piece(0, 1)], {})
    [file] = (tmp_path / "delta" / "events" / "s").rglob("part-*.parquet")
    sound = file.read_bytes()
    pages = len(sound) - 8 - int.from_bytes(sound[-8:-4], "little")
    rubbish = {
        "empty": b"",
        "no Parquet": b"rubbish",
        "no footer": sound[:pages] + b"\xff" * (len(sound) - 8 - pages) + sound[-8:],
        "no pages": b"\xff" * pages + sound[pages:],
    }
    file.write_bytes(rubbish[broken])

    with pytest.raises(Unavailable, match="table events/s cannot be read"):
        offsets(store)


def test_a_second_process_with_an_old_view_appends_only_what_is_new(tmp_path: Path) -> None:
    first, second = DeltaStore(tmp_path), DeltaStore(tmp_path)
    first.append("events/s", TABLE.schema, [a_piece(0, 1)], {})
    second.append("events/s", TABLE.schema, [a_piece(0, 2)], {})
    first.append("events/s", TABLE.schema, [a_piece(2, 5)], {0: 9})  # `first` has not seen what `second` did
    second.append("events/s", TABLE.schema, [a_piece(0, 0, partition=1)], {1: 9})

    assert offsets(first) == [0, 0, 1, 2, 3, 4, 5]
    assert first.reach("events/s", 2).least() == 9


def test_a_contract_that_grows_keeps_the_old_rows(tmp_path: Path) -> None:
    store = DeltaStore(tmp_path)
    fields = {name: field for name, field in SPEC.fields.items() if name != "fast"}
    smaller = tables.EventTable(SPEC.model_copy(update={"fields": fields}))
    store.append("events/s", smaller.schema, [Piece("events.s", 0, smaller.batch(some_rows(0, 1), 0), 1)], {})
    store.append("events/s", TABLE.schema, [a_piece(2, 3)], {})
    store.append("events/s", smaller.schema, [Piece("events.s", 0, smaller.batch(some_rows(4, 4), 0), 4)], {})

    assert offsets(store) == [0, 1, 2, 3, 4]


def test_a_field_that_changes_its_type_is_refused_by_name(tmp_path: Path) -> None:
    store = DeltaStore(tmp_path)
    store.append("events/s", pa.schema([("mph", pa.int64()), ("offset", pa.int64())]), [], {0: 1})

    with pytest.raises(ArchiveConflict, match=r"'mph'.*int64.*double"):
        store.append("events/s", TABLE.schema, [a_piece(0, 1)], {})


def test_a_row_becomes_columns_by_its_contract() -> None:
    found = TABLE.batch(some_rows(3, 3), 1).to_pylist()

    assert found == [
        {
            "row_id": "t3",
            "at": "2020-01-01T00:00:00Z",
            "class": 3,
            "mph": 5.0,
            "fast": None,
            "event_time_ms": 3000,
            "arrived_at_ms": 3001,
            "id": "raw.s/0/3",
            "partition": 1,
            "offset": 3,
        }
    ]


@pytest.mark.parametrize(
    "payload",
    [b"", b"null", b"{", b"[1]", b"{},{}", b'{"class": "\xff"}', b'{"class": "x", "mph": {}, "at": []}'],
)
def test_a_row_that_fits_no_contract_is_kept_with_nulls(payload: bytes) -> None:
    good = some_rows(0, 1)
    rows = Rows([good.payloads[0], payload], good.ids, good.event_time_ms, good.arrived_at_ms, good.offsets)

    found = TABLE.batch(rows, 0).to_pylist()

    assert found[0]["class"] == 0
    assert found[1]["class"] is None
    assert [row["offset"] for row in found] == [0, 1]


def test_a_whole_number_written_as_a_fraction_is_read_as_the_number_it_is() -> None:
    good = some_rows(0, 0)
    rows = Rows([a_row(0, **{"class": 5.0})], good.ids, good.event_time_ms, good.arrived_at_ms, good.offsets)

    assert TABLE.batch(rows, 0).to_pylist()[0]["class"] == 5


def a_prediction_batch(**changes: Any) -> PredictionBatch:
    known = {
        "model": "m",
        "instance": "serving-0",
        "id": "serving-0/1",
        "champion_version": 3,
        "ids": ["a", "b"],
        "keys": ["k1", "k2"],
        "event_time_ms": [10, 20],
        "answered_ms": [11, 21],
        "champion": [1.5, 2.5],
        "feature_names": ["x", "y", "z"],
        "features": [1, 2, float("nan"), 4, 5, 6],
        "latency_us": [100, 200],
    }
    return PredictionBatch(**{**known, **changes})


def test_a_batch_of_predictions_becomes_one_row_each() -> None:
    found = tables.predictions_batch(a_prediction_batch(), 2, 77)

    assert found["id"].to_pylist() == ["a", "b"]
    assert found["features"].to_pylist()[1] == [4, 5, 6]
    assert found["feature_names"].to_pylist() == [["x", "y", "z"]] * 2
    assert found["challenger"].to_pylist() == [None, None]
    assert found["offset"].to_pylist() == [77, 77]
    assert found["features_until_ms"].to_pylist() == [None, None]
    fresh = tables.predictions_batch(a_prediction_batch(features_until_ms=[9, 0]), 2, 77)
    assert fresh["features_until_ms"].to_pylist() == [9, None]
    assert tables.predictions_batch(PredictionBatch(model="m", watermark_ms=5), 0, 1).num_rows == 0


@pytest.mark.parametrize(
    "changes",
    [
        {"keys": ["k"]},
        {"features_until_ms": [1]},
        {"features": [1.0]},
        {"champion": [1.0] * 3},
        {"champion_probabilities": [1]},
    ],
)
def test_uneven_predictions_are_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(tables.Uneven, match="serving-0/1"):
        tables.predictions_batch(a_prediction_batch(**changes), 0, 0)


def test_small_files_are_joined_and_every_version_can_still_be_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("trimtab_feature_store.store._COMPACT_EVERY", 4)
    first, second = DeltaStore(tmp_path), DeltaStore(tmp_path)
    versions = []
    for number in range(20):
        (first, second)[number % 3 == 0].append(
            "events/s", TABLE.schema, [a_piece(number, number)], {0: number}
        )
        versions.append(first.reach("events/s", 1).version)

    files = DeltaTable(str(tmp_path / "delta" / "events" / "s")).file_uris()
    assert len(files) < 8
    assert [offsets(first, version) for version in versions] == [list(range(n + 1)) for n in range(20)]
    assert first.reach("events/s", 1).least() == 19


def test_the_chances_of_classes_are_archived_row_by_row() -> None:
    classes = {"classes": ["no", "yes", "maybe"], "champion_probabilities": [0.1, 0.2, 0.7, 1, 0, 0]}

    found = tables.predictions_batch(a_prediction_batch(**classes), 2, 77)

    assert found["classes"].to_pylist() == [["no", "yes", "maybe"]] * 2
    assert found["champion_probabilities"].to_pylist() == [[0.1, 0.2, 0.7], [1, 0, 0]]
    assert found["challenger_probabilities"].to_pylist() == [None, None]


def test_what_further_versions_of_an_ab_test_said_is_archived_and_which_of_them_answered() -> None:
    others = [OtherAnswers(version=5, said=[1.5, 2.5], answered=[False, True])]

    found = tables.predictions_batch(a_prediction_batch(arms=2, others=others), 2, 77)

    assert found["others"].to_pylist() == [
        [{"version": 5, "said": 1.5, "probabilities": [], "answered": False}],
        [{"version": 5, "said": 2.5, "probabilities": [], "answered": True}],
    ]
    assert tables.predictions_batch(a_prediction_batch(), 2, 77)["others"].to_pylist() == [None, None]
    with pytest.raises(tables.Uneven, match="version 5"):
        tables.predictions_batch(a_prediction_batch(others=[OtherAnswers(version=5, said=[1.5])]), 2, 77)
