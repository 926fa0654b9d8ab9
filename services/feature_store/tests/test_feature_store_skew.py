"""Skew: what serving logged beside what the archive says, over tables in memory."""

import asyncio
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import msgspec
import numpy as np
import pytest
from trimtab_contracts.serving.v1.serving_pb2 import PredictionBatch
from trimtab_core import specs
from trimtab_feature_store import skew, tables
from trimtab_feature_store.errors import BadWindow
from trimtab_feature_store.historical import Historical
from trimtab_feature_store.rows import Rows
from trimtab_feature_store.skew import Audit, Skew
from trimtab_feature_store.store import Piece
from trimtab_feature_store.testing import MemoryStore
from trimtab_runtime.clock import iso
from trimtab_runtime.reftables import RefTables
from trimtab_runtime.specbook import SpecBook, UnknownModel

HOUR = 3_600_000
START = 420_000 * HOUR
FEATURES = ("request.x", "speed.x_mean_4h")
NOTES = ("Busy", None)


class World:
    """A model whose source is what its view folds; event n is at hour n, and its x is n; its note alternates."""

    def __init__(self, hours: int = 6) -> None:
        contract = {"key": "id", "event_time": "at", "lateness": "2h", "partitions": 1}
        fields = {
            "id": {"type": "string"},
            "at": {"type": "timestamp"},
            "x": {"type": "number", "nullable": True},
            "note": {"type": "string", "nullable": True},
        }
        fold = {
            "source": "rides",
            "hop": "1h",
            "ttl": "1d",
            "aggregates": [{"field": "x", "functions": ["mean"], "windows": ["4h"]}],
        }
        model = {
            "task": "regression", "source": "rides", "features": list(FEATURES),
            "label": {"source": "rides", "on": "id", "value": "x", "within": "1h"},
            "trainer": {"kind": "linear", "window": "1d"}, "rollout": {"cap": 60},
        }  # fmt: skip
        book = SpecBook()
        book.put(
            specs.parse("Source", {"metadata": {"name": "rides"}, "spec": {**contract, "fields": fields}})
        )
        book.put(specs.parse("FeatureView", {"metadata": {"name": "speed"}, "spec": fold}))
        book.put(specs.parse("Model", {"metadata": {"name": "m"}, "spec": model}))
        self._store = MemoryStore()
        self._skew = Skew(Historical(book, self._store, self, RefTables(book)), self._store)
        self._batches = 0
        table, times = tables.EventTable(book.source("rides").spec), START + np.arange(hours) * HOUR
        payloads = [
            msgspec.json.encode({"id": f"r{n}", "at": iso(int(at)), "x": n, "note": NOTES[n % 2]})
            for n, at in enumerate(times)
        ]
        rows = table.batch(
            Rows(payloads, [f"raw/{n}" for n in range(hours)], times, times, list(range(hours))), 0
        )
        marks = {0: START + 100 * HOUR}
        self._store.append("events/rides", table.schema, [Piece("events.rides", 0, rows, hours)], marks)

    @contextmanager
    def hurried(self, sources: Sequence[str]) -> Iterator[None]:
        yield

    def log(
        self, *rows: tuple[int, float, float], names: Sequence[str] = FEATURES, model: str = "m",
        notes: Sequence[str] = (),
    ) -> None:  # fmt: skip
        """Log predictions for events (n, features...), and of each the words of its note."""
        message = PredictionBatch(
            model=model, id=f"b{self._batches}", champion_version=7, feature_names=names,
            ids=[f"p{n}" for n, *_ in rows], keys=[f"r{n}" for n, *_ in rows],
            event_time_ms=[START + n * HOUR for n, *_ in rows],
            features=np.float32([values for _, *values in rows]).ravel().tolist(),
            text_names=["text(request.note)"] if notes else [], texts=notes,
        )  # fmt: skip
        piece = Piece("predictions", 0, tables.predictions_batch(message, 0, self._batches), self._batches)
        self._store.append(tables.PREDICTIONS, tables.PREDICTIONS_SCHEMA, [piece], {})
        self._batches += 1

    def audit(self, model: str = "m", since_ms: int | None = None, until_ms: int | None = None) -> Audit:
        return asyncio.run(self._skew.audit(model, since_ms, until_ms))


@pytest.fixture
def world() -> World:
    return World()


NAN = float("nan")
AS_IT_WAS = [(0, 0, NAN), (1, 1, 0), (2, 2, 0.5), (3, 3, 1.0), (4, 4, 1.5), (5, 5, 2.5)]


def test_what_was_served_as_it_should_have_been_shows_no_skew(world: World) -> None:
    world.log(*AS_IT_WAS)

    found = world.audit()

    assert (found.rows, found.mismatched, found.rows_without_event) == (6, 0, 0)
    assert {name: (each.rows, each.worst) for name, each in found.features.items()} == dict.fromkeys(
        FEATURES, (6, None)
    )
    assert found.versions == {"predictions": 1, "events/rides": 1}


def test_each_kind_of_skew_is_counted_and_the_worst_is_shown(world: World) -> None:
    world.log((0, 0, 3.0), (1, 1, 0.0), (2, 2, NAN), (3, 3, 1.1), (4, 4, 3.0), (5, 5, 2.5 * (1 + 1e-7)))

    found = world.audit()

    speed, request = found.features["speed.x_mean_4h"], found.features["request.x"]
    assert (speed.rows, speed.mismatched, speed.missing, speed.extra) == (6, 2, 1, 1)
    assert (request.mismatched, request.missing, request.extra) == (0, 0, 0)
    assert (found.rows, found.mismatched) == (6, 4)
    worst = speed.worst
    assert worst is not None
    assert (worst.key, worst.event_time_ms, worst.version) == ("r4", START + 4 * HOUR, 7)
    assert (worst.logged, worst.recomputed, worst.apart) == (3.0, 1.5, 0.5)


def test_rows_that_cannot_be_compared_are_counted(world: World) -> None:
    world.log((1, 1, 0.0), (99, 1, 1))
    world.log((2, 2, 0.5), names=("request.x", "gone.x_mean_4h"))
    world.log((3, 99, 99), model="another")

    found = world.audit()

    assert (found.rows, found.mismatched) == (1, 0)
    assert (found.rows_without_event, found.rows_of_old_features) == (1, 1)


def test_what_the_archives_watermark_has_not_passed_is_not_compared_yet(world: World) -> None:
    world.log((1, 1, 0.0), (101, 1, 1))

    found = world.audit()

    assert (found.rows, found.rows_past_archive, found.rows_without_event) == (1, 1, 0)


def test_versions_of_other_features_are_each_compared_by_their_own(world: World) -> None:
    world.log((2, 2, 0.5))
    world.log((3, 1.0, 3.0), names=("speed.x_mean_4h", "hour(at)"))

    found = world.audit()

    assert {name: each.rows for name, each in found.features.items()} == {
        "request.x": 1, "speed.x_mean_4h": 2, "hour(at)": 1,
    }  # fmt: skip
    assert (found.rows, found.mismatched) == (2, 0)


def test_what_is_looked_at_piece_by_piece_is_looked_at_once(world: World, monkeypatch: Any) -> None:
    monkeypatch.setattr(skew, "_AT_ONCE", 2)
    world.log(*AS_IT_WAS, AS_IT_WAS[0], AS_IT_WAS[0], AS_IT_WAS[0])

    found = world.audit()

    assert (found.rows, found.mismatched) == (9, 0)


def test_only_the_predictions_of_a_range_are_compared(world: World) -> None:
    world.log(*AS_IT_WAS)

    assert world.audit(since_ms=START + HOUR, until_ms=START + 3 * HOUR).rows == 2
    with pytest.raises(BadWindow):
        world.audit(since_ms=START, until_ms=START)


def test_a_model_of_which_nothing_is_logged_has_nothing_to_compare(world: World) -> None:
    assert world.audit().rows == 0
    with pytest.raises(UnknownModel):
        world.audit("nobody")


def test_texts_are_compared_as_they_were_seen(world: World) -> None:
    world.log(*AS_IT_WAS[:4], notes=["busy", "", "Busy", "made up"])
    world.log(AS_IT_WAS[4], notes=[""])
    world.log(AS_IT_WAS[5])

    found = world.audit()

    assert (found.rows, found.mismatched) == (6, 3)
    note = found.features["text(request.note)"]
    assert (note.rows, note.mismatched, note.missing, note.extra) == (5, 1, 1, 1)
    assert found.features["request.x"].rows == 6
