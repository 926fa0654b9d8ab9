"""Two trainers on one queue: what is cancelled at one is ended at the other."""

import asyncio
import uuid
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from trimtab_contracts.training.v1.training_pb2 import (
    CancelRunRequest,
    GetRunLogRequest,
    ListRunsRequest,
    Progress,
    RunEvent,
    WatchRunRequest,
)
from trimtab_core.specs import parse
from trimtab_runtime.clock import SystemClock
from trimtab_runtime.postgres import open_pool
from trimtab_runtime.specbook import SpecBook
from trimtab_runtime.testing import eventually
from trimtab_trainer.grpc_api import TrainerApi
from trimtab_trainer.nursery import Nursery
from trimtab_trainer.recorded import Runs
from trimtab_trainer.sandbox import ChildProcess, Files
from trimtab_trainer.store import PostgresStore
from trimtab_trainer.usecases.entities import Command, Recipe, TrainingSet
from trimtab_trainer.usecases.jobs import Jobs

pytestmark = pytest.mark.real


def a_book() -> SpecBook:
    """A model whose fit takes longer than any test."""
    book = SpecBook()
    spec = {
        "task": "regression",
        "source": "trips",
        "features": ["request.x"],
        "rollout": {"cap": 10},
        "label": {"source": "trips", "on": "id", "value": "y", "within": "1h"},
        "trainer": {"window": "30d", "kind": "random_forest", "parameters": {"n_estimators": 5_000}},
    }
    book.put(parse("Model", {"metadata": {"name": "m"}, "spec": spec}))
    return book


class Features:
    async def training_set(self, recipe: Recipe, folder: Path) -> TrainingSet:
        rows = np.random.default_rng(0).normal(size=400)
        columns = {"key": [str(at) for at in range(400)], "event_time_ms": np.arange(400) * 3_600_000}
        table = pa.table(columns | {"request.x": rows, "label": rows})
        path = folder / "rows.arrow"
        with pa.OSFile(str(path), "wb") as file, pa.ipc.new_stream(file, table.schema) as writer:
            writer.write_table(table)
        return TrainingSet(path, (), "digest", 400)


def children_in(folder: Path) -> list[str]:
    """Return the processes whose log lies in `folder`."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if (process / "fd" / "1").readlink().is_relative_to(folder):
                found.append(process.name)
        except OSError:
            continue
    return found


async def test_a_run_that_is_cancelled_at_another_trainer_has_no_process_left(
    postgres_dsn: str, tmp_path: Path, nursery: Nursery
) -> None:
    schema, book, clock = f"trainer_{uuid.uuid4().hex[:8]}", a_book(), SystemClock()
    async with (
        open_pool(postgres_dsn, schema, package="trimtab_trainer") as pool,
        open_pool(postgres_dsn, schema, package="trimtab_trainer") as other_pool,
        asyncio.TaskGroup() as tasks,
    ):
        champions: Any = SimpleNamespace(champion=lambda _: None)
        features: Any = Features()
        jobs = Jobs(
            PostgresStore(pool), book, champions, features, ChildProcess(nursery), Files(tmp_path), Runs(PostgresStore(pool)), clock,
            owner="one", lease_ms=60_000, patience_ms=60_000, folder=tmp_path / "jobs",
        )  # fmt: skip
        unasked: Any = None
        other = TrainerApi(PostgresStore(other_pool), unasked, jobs, unasked, clock)
        await jobs.order(Command("c", "m", "loop", "manual", as_of_ms=400 * 3_600_000))
        [queued] = (await other.ListRuns(ListRunsRequest(), None)).runs
        run = queued.event.run_id
        working = tasks.create_task(jobs.work())
        async with asyncio.timeout(180):
            async for seen in other.WatchRun(WatchRunRequest(run_id=run), None):
                if seen.progress.iteration:
                    break
        assert (seen.attempt, seen.progress.stage, seen.progress.fits) == (1, Progress.FITTING, 7)
        assert len(children_in(tmp_path)) == 1

        ended = await other.CancelRun(CancelRunRequest(run_id=run, requested_by="ann", reason="slow"), None)

        async def gone() -> bool:
            return children_in(tmp_path) == [] and list((tmp_path / "jobs").iterdir()) == []

        await eventually(gone, what="the child to end and its files to go")
        working.cancel()
        watched = [seen async for seen in other.WatchRun(WatchRunRequest(run_id=run), None)]
        log = await other.GetRunLog(GetRunLogRequest(run_id=run), None)

    assert (ended.event.status, ended.event.cancelled_by) == (RunEvent.CANCELLED, "ann")
    assert [seen.event for seen in watched] == [ended.event]
    assert "fitting 1 of 7" in log.text
