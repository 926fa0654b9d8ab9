"""Runs on a real Ray cluster of this machine: the same bytes, the same limits, and a lost worker is no lost run."""

import asyncio
import json
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pyarrow as pa
import pytest
from trimtab_core.specs import Model, parse, to_document
from trimtab_runtime.cluster import RayAway
from trimtab_runtime.testing import eventually
from trimtab_stack import ports
from trimtab_trainer import job, onray, sandbox
from trimtab_trainer.errors import NurseryLost
from trimtab_trainer.nursery import Nursery
from trimtab_trainer.sandbox import ChildProcess
from trimtab_trainer.usecases.entities import Fitted, Recipe, TrainingSet
from trimtab_training.progress import Progress, Stage
from trimtab_training.trials import hand_over, handed_over

MINUTE = 60_000
ENDLESS = {"kind": "hist_gradient_boosting", "parameters": {"max_iter": 10_000_000}}


def a_model(**trainer: object) -> Model:
    spec = {
        "task": "regression",
        "source": "trips",
        "features": ["request.x"],
        "rollout": {"cap": 10},
        "label": {"source": "trips", "on": "id", "value": "y", "within": "10m"},
        "trainer": {"window": "30d", "memory_mb": 1024, **trainer},
    }
    model = parse("Model", {"metadata": {"name": "m"}, "spec": spec})
    assert isinstance(model, Model)
    return model


@pytest.fixture(scope="module")
def nursery(ray_address: str) -> Iterator[Nursery]:
    """One with the environment that comes with the cluster."""
    with Nursery() as nursery:
        yield nursery


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A job's folder with its rows."""
    folder, rng, count = tmp_path / "run", np.random.default_rng(0), 400
    folder.mkdir()
    features = rng.normal(size=(count, 3))
    columns: dict[str, Any] = {
        "key": [str(at) for at in range(count)],
        "event_time_ms": np.arange(count) * MINUTE,
    }
    columns |= {f"f{at}": features[:, at] for at in range(3)}
    columns["label"] = 3 * features[:, 0] + rng.normal(0, 0.3, count)
    table = pa.table(columns)
    with pa.OSFile(str(folder / "rows.arrow"), "wb") as file, pa.ipc.new_stream(file, table.schema) as out:
        out.write_table(table)
    return folder


async def fitted(
    nursery: Nursery, folder: Path, model: Model, address: str | None, tell: Callable[[Progress], object]
) -> Fitted:
    rows = TrainingSet(folder / "rows.arrow", (), "digest", 400)

    def told(progress: Progress) -> None:
        tell(progress)

    return await ChildProcess(nursery, address).fit(Recipe(model, 1, 400 * MINUTE), rows, folder, told)


def workers() -> list[psutil.Process]:
    """The workers of our cluster that are at a run, each the parent of the nursery that forks the run's process."""
    found = []
    for process in psutil.Process().children(recursive=True):
        with suppress(psutil.Error):
            parent = process.parent()
            if (
                parent
                and "trimtab_trainer.child" in process.cmdline()
                and next(iter(parent.cmdline()), "").startswith("ray::")  # one that is ending has none
            ):
                found.append(parent)
    return found


async def at_work() -> bool:
    return bool(workers())


async def nobody_at_work() -> bool:
    return not workers()


@pytest.mark.real
async def test_a_run_with_its_search_is_the_one_that_is_made_here(
    folder: Path, tmp_path: Path, ray_address: str, nursery: Nursery
) -> None:
    quick = {"hist_gradient_boosting": {"max_iter": 5, "max_leaf_nodes": 4}}
    searched = {
        "trials": 3,
        "at_once": 2,
        "families": ["linear", "hist_gradient_boosting"],
        "parameters": quick,
    }
    model, told_here, told_there = a_model(kind="auto", search=searched), list[Progress](), list[Progress]()
    here = tmp_path / "here"
    here.mkdir()
    (here / "rows.arrow").write_bytes((folder / "rows.arrow").read_bytes())

    made_here, there = await asyncio.gather(
        fitted(nursery, here, model, None, told_here.append),
        fitted(nursery, folder, model, ray_address, told_there.append),
    )

    for made in (there.model, there.reference, there.evaluation, there.evidence):
        assert made.read_bytes() == (here / made.name).read_bytes()
    assert (there.parameters, there.environment) == (made_here.parameters, made_here.environment)
    assert tried(told_there) == tried(told_here)
    assert [it for it in told_there if it.stage is Stage.FITTING] == [
        it for it in told_here if it.stage is Stage.FITTING
    ]
    assert "fitting 7 of 7" in (folder / "log").read_text()


def tried(told: list[Progress]) -> list[Any]:
    trials = [it.ended for it in told if it.ended]
    assert len(trials) == 3
    return [(it.number, it.family, it.parameters, it.outcome, it.values) for it in trials]


@pytest.mark.real
async def test_a_run_whose_worker_is_lost_is_tried_again_on_another(
    folder: Path, ray_address: str, nursery: Nursery
) -> None:
    async with asyncio.TaskGroup() as tasks:
        running = tasks.create_task(
            fitted(nursery, folder, a_model(kind="linear"), ray_address, lambda _: None)
        )
        await eventually(at_work)
        for worker in workers():
            worker.kill()

    assert running.result().metrics["mae"] < 0.4
    assert "the worker was lost, and the run is tried 2 times more" in (folder / "log").read_text()


@pytest.mark.real
async def test_a_run_that_is_cancelled_ends_on_its_worker(
    folder: Path, ray_address: str, nursery: Nursery
) -> None:
    async with asyncio.TaskGroup() as tasks:
        running = tasks.create_task(fitted(nursery, folder, a_model(**ENDLESS), ray_address, lambda _: None))
        await eventually(at_work)
        running.cancel()

    await eventually(nobody_at_work)


def test_a_worker_holds_a_run_to_its_time_and_leaves_nothing_behind(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(folder.parent))
    (folder.parent / "trimtab-run-4194305-x").mkdir()  # of a process that cannot be
    job_json = json.dumps({"model": to_document(a_model(**ENDLESS)), "champion": None}).encode()
    files = {"job.json": job_json, "rows.arrow": (folder / "rows.arrow").read_bytes()}

    *_, (code, made) = onray.work(files, onray.Place("", 1024, 0.05))

    assert code == job.FAILED
    assert "longer than trainer.timeout" in json.loads(made["result.json"])["error"]
    assert list(folder.parent.iterdir()) == [folder]


def test_a_worker_whose_nursery_is_lost_asks_for_the_run_to_begin_again(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "executable", shutil.which("false"))

    *_, (code, made) = onray.work({}, onray.Place("", 1024, 600))

    assert (code, made["result.json"].decode()) == (sandbox.AWAY, str(NurseryLost()))


async def test_without_a_cluster_the_run_waits_with_a_sentence(folder: Path) -> None:
    address = f"127.0.0.1:{ports.choose()}"
    with pytest.raises(RayAway, match=f"^Ray at {address} cannot be used: [^\n]+$"):
        await fitted(Nursery(), folder, a_model(), address, lambda _: None)


@pytest.mark.parametrize(
    ("code", "said"),
    [
        (sandbox.AWAY, "^it is away$"),
        (1, r"^Ray at auto was lost with the run: it goes on when Ray is back$"),
    ],
)
async def test_a_driver_that_lost_its_cluster_loses_no_run(
    folder: Path, monkeypatch: pytest.MonkeyPatch, code: int, said: str
) -> None:
    async def run(folder: Path, tell: Callable[[Progress], None], **_: object) -> int:
        tell(Progress(Stage.SEARCHING, trial=1, trials=9))
        (folder / "result.json").write_text("it is away")
        return code

    monkeypatch.setattr(sandbox, "run", run)
    hand_over(folder, [])
    with pytest.raises(RayAway, match=said):
        await fitted(Nursery(), folder, a_model(kind="auto"), "auto", lambda _: None)
    assert handed_over(folder) == []
