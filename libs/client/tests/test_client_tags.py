"""Datasets by the names that people give them, against the registry's own use cases; and archived events."""

import asyncio
import json
import sys
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet
import pytest
from trimtab import cli
from trimtab.cli import datasets, project
from trimtab.client import SERVICES, Trimtab
from trimtab_contracts.features.v1.features_pb2 import ArchivedEvents, HistoricalFeatures
from trimtab_contracts.registry.v1.registry_pb2 import Candidate, TableVersion
from trimtab_contracts.training.v1.training_pb2 import ListRunsResponse, Run, RunEvent
from trimtab_registry.testing import Harness
from trimtab_runtime.clock import from_timestamp, to_timestamp
from trimtab_runtime.errors import NotFound, Rejected

DAY_MS = 86_400_000


def a_run(name: str, digest: str) -> Run:
    candidate = Candidate(
        rows=7, dataset_digest=digest, tables=[TableVersion(table="events/pickups", version=3)]
    )
    event = RunEvent(run_id=name, model="minutes", as_of=to_timestamp(10 * DAY_MS), candidate=candidate)
    return Run(event=event)


class Trainer:
    """Lists only its newest runs, and knows the older ones too."""

    def __init__(self) -> None:
        self.runs = {
            "first": a_run("first", "d1"),
            "second": a_run("second", "d2"),
            "failed": a_run("failed", ""),
        }

    async def ListRuns(self, request: Any, _: Any) -> ListRunsResponse:
        return ListRunsResponse(runs=[self.runs["failed"], self.runs["second"]])

    async def GetRun(self, request: Any, _: Any) -> Run:
        if request.run_id not in self.runs:
            raise NotFound("there is no such run")
        return self.runs[request.run_id]


def stream_of(rows: pa.Table) -> list[bytes]:
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, rows.schema) as writer:
        writer.write_table(rows)
    whole = bytes(sink.getvalue())
    return [whole[:50], whole[50:]]


class FeatureStore:
    """Makes the same set of every question, and has three events."""

    def __init__(self) -> None:
        self.asked: list[Any] = []
        self.digest = "d1"

    async def GetHistoricalFeatures(self, request: Any, _: Any) -> AsyncIterator[HistoricalFeatures]:
        self.asked.append(request)
        yield HistoricalFeatures(dataset=HistoricalFeatures.Dataset(rows=1, digest=self.digest))
        for piece in stream_of(pa.table({"key": ["a"], "event_time_ms": [5], "x": [1.0], "label": [2.0]})):
            yield HistoricalFeatures(arrow=piece)

    async def ReadEvents(self, request: Any, _: Any) -> AsyncIterator[ArchivedEvents]:
        self.asked.append(request)
        there = (
            {"rows": 3, "first": to_timestamp(5), "last": to_timestamp(9)}
            if request.source == "pickups"
            else {}
        )
        yield ArchivedEvents(extent=ArchivedEvents.Extent(**there))
        for piece in stream_of(pa.table({"trip": ["a", "b"][: 2 if there else 0]})):
            yield ArchivedEvents(arrow=piece)


class Channel:
    """Leads straight to what answers."""

    def __init__(self, api: Any) -> None:
        self._api = api

    def unary_unary(self, method: str, **_: Any) -> Any:
        async def call(request: Any, **__: Any) -> Any:
            return await getattr(self._api, method.rpartition("/")[2])(request, None)

        return call

    def unary_stream(self, method: str, **_: Any) -> Any:
        return lambda request, **__: getattr(self._api, method.rpartition("/")[2])(request, None)

    stream_unary = stream_stream = unary_unary


class World:
    """A registry with versions of `first` and `second`, and a client of it."""

    def __init__(self) -> None:
        self.harness, self.store = Harness(), FeatureStore()

    async def begin(self) -> "World":
        await self.harness.apply()
        for name in ("first", "second"):
            await self.harness.consider(name)
        held = self.harness
        registry = held.api()
        apis = {"registry": registry, "trainer": Trainer(), "feature_store": self.store}
        channels: dict[str, Any] = {name: Channel(apis.get(name)) for name in SERVICES}
        self.trimtab = Trimtab(channels)
        return self


@pytest.fixture
def world() -> World:
    return asyncio.run(World().begin())


@pytest.fixture
def tell(
    world: World, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> Callable[..., str]:
    """Run the command and return what it prints."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TRIMTAB_ACTOR", "ann")
    for module in (datasets, project):
        monkeypatch.setattr(module, "ask", lambda _, question: asyncio.run(question(world.trimtab)))

    def run(*words: str) -> str:
        monkeypatch.setattr(sys, "argv", ["trimtab", *words])
        cli.app(standalone_mode=False)
        return capsys.readouterr().out

    return run


def test_a_tag_is_given_moved_listed_and_removed_and_each_is_said(tell: Callable[..., str]) -> None:
    named = "the dataset of first (minutes, digest )"
    assert tell("dataset", "tag", "first", "gold") == f"gold names {named}\n"
    assert tell("dataset", "tag", "second", "gold").endswith(f", and no longer {named}\n")
    assert "the dataset of second" in tell("dataset", "tag", "gold", "silver")

    listed = json.loads(tell("get", "datasets", "--json"))
    assert [(each["run"], each["tags"], each["digest"]) for each in listed] == [
        ("second", "gold, silver", "d2")
    ]

    assert tell("dataset", "untag", "gold").startswith(
        "gold is no tag any more; it named the dataset of second"
    )
    assert json.loads(tell("get", "datasets", "--json"))[0]["tags"] == "silver"


def test_a_tagged_dataset_is_listed_however_old_its_run_is(tell: Callable[..., str]) -> None:
    tell("dataset", "tag", "first", "old")

    assert [each["run"] for each in json.loads(tell("get", "datasets", "--json"))] == ["second", "first"]


def test_a_dataset_is_exported_by_its_tag_as_its_run_saw_it(tell: Callable[..., str], world: World) -> None:
    tell("dataset", "tag", "first", "gold")

    said = json.loads(tell("dataset", "export", "gold", "x.parquet", "--json"))

    assert (said["run"], said["recorded digest"], said["digest"]) == ("first", "d1", "d1")
    assert pyarrow.parquet.read_table("x.parquet").num_rows == 1
    [asked] = world.store.asked
    window_ms = from_timestamp(asked.end) - from_timestamp(asked.start)
    assert (asked.model, from_timestamp(asked.as_of), window_ms % DAY_MS) == ("minutes", 10 * DAY_MS, 0)


def test_a_dataset_that_is_not_what_its_run_saw_any_more_is_told(
    tell: Callable[..., str], world: World
) -> None:
    assert "was trained on other rows" not in tell("dataset", "export", "first", "x.parquet")
    world.store.digest = "d3"
    assert "run first was trained on other rows (d1) than" in " ".join(
        tell("dataset", "export", "first", "x.parquet").split()
    )


def test_two_datasets_are_told_apart_by_tag_or_run(tell: Callable[..., str]) -> None:
    tell("dataset", "tag", "second", "gold")

    said = json.loads(tell("dataset", "diff", "first", "gold", "--json"))

    assert (said["left"]["run"], said["right"]["run"]) == ("first", "second")
    assert [column["column"] for column in said["columns"]] == ["x", "label"]


@pytest.mark.parametrize(
    ("words", "refusal", "sentence"),
    [
        (["export", "none", "x"], NotFound, "there is no dataset 'none': name a tag or a run"),
        (["diff", "first", "none"], NotFound, "there is no dataset 'none'"),
        (["export", "failed", "x"], NotFound, "run 'failed' has no dataset"),
        (["tag", "none", "gold"], NotFound, "there is no dataset 'none'"),
        (["tag", "first", "second"], Rejected, "tag 'second' is a run's id"),
        (["untag", "none"], NotFound, "no dataset is tagged 'none'"),
        (["export", "first", "x", "--end", "2020-01-01T00:00:00Z"], Rejected, "give --start and --end"),
        (["export", "first", "x", "--as-of", "2020-01-01T00:00:00Z"], Rejected, "give --start and --end"),
    ],
)
def test_what_names_no_dataset_is_refused_in_a_sentence(
    tell: Callable[..., str], words: list[str], refusal: type[Exception], sentence: str
) -> None:
    with pytest.raises(refusal, match=sentence):
        tell("dataset", *words)


async def test_archived_events_are_arrow_and_pandas_with_how_many_there_are() -> None:
    world = await World().begin()

    found = await world.trimtab.events("pickups", 5, most_rows=2)

    assert (found.rows, found.total, found.first_ms, found.last_ms) == (2, 3, 5, 9)
    assert (found.version, found.watermark_ms) == (None, None)
    assert list(found.pandas()["trip"]) == found.arrow()["trip"].to_pylist() == ["a", "b"]
    [asked] = world.store.asked
    assert (from_timestamp(asked.start), asked.HasField("end"), asked.most_rows) == (5, False, 2)
    nothing = await world.trimtab.events("dropoffs")
    assert (nothing.rows, nothing.total, nothing.first_ms) == (0, 0, None)
    assert not world.store.asked[1].HasField("most_rows")
