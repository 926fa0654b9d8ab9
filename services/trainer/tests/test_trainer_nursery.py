"""What runs are forked from, and what becomes of the two when either ends: real processes, and real signals."""

import asyncio
import json
import os
import signal
import sys
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import numpy as np
import psutil
import pyarrow as pa
import pytest
from trimtab_core.specs import Model, parse, to_document
from trimtab_runtime.testing import eventually
from trimtab_trainer import child, sandbox
from trimtab_trainer.errors import NurseryLost
from trimtab_trainer.nursery import Nursery, Order
from trimtab_training.progress import Progress

ENDLESS = {"kind": "hist_gradient_boosting", "parameters": {"max_iter": 10_000_000}}
TRAINER = """
import asyncio, sys
from pathlib import Path
from trimtab_trainer import sandbox
from trimtab_trainer.nursery import Nursery

async def main():
    with Nursery() as nursery:
        print(nursery.pid, flush=True)
        await sandbox.run(Path(sys.argv[1]), lambda _: None, nursery=nursery, memory_mb=1024, timeout_s=600)

asyncio.run(main())
"""


def a_job(folder: Path, **trainer: object) -> Path:
    """Return a folder with a job in it."""
    folder.mkdir()
    spec = {
        "task": "regression",
        "source": "trips",
        "features": ["request.x"],
        "rollout": {"cap": 10},
        "label": {"source": "trips", "on": "id", "value": "y", "within": "1h"},
        "trainer": {"window": "30d", "kind": "linear", **trainer},
    }
    model = parse("Model", {"metadata": {"name": "m"}, "spec": spec})
    assert isinstance(model, Model)
    (folder / "job.json").write_text(json.dumps({"model": to_document(model)}))
    x = np.random.default_rng(0).normal(size=400)
    table = pa.table(
        {"key": [""] * 400, "event_time_ms": np.arange(400) * 3_600_000, "request.x": x, "label": x}
    )
    with (
        pa.OSFile(str(folder / "rows.arrow"), "wb") as file,
        pa.ipc.new_stream(file, table.schema) as writer,
    ):
        writer.write_table(table)
    return folder


async def done(nursery: Nursery, folder: Path, memory_mb: int = 1024) -> int:
    def untold(_: Progress) -> None:
        """Take no notice."""

    return await sandbox.run(folder, untold, nursery=nursery, memory_mb=memory_mb, timeout_s=600)


def process_of(folder: Path, nursery: int | None) -> psutil.Process | None:
    """Return the process that writes the log in `folder`, if there is one."""
    if nursery is not None and psutil.pid_exists(nursery):
        for process in psutil.Process(nursery).children():
            if os.path.realpath(f"/proc/{process.pid}/fd/1") == str(folder / "log"):
                return process
    return None


@asynccontextmanager
async def at_work(
    nursery: Nursery, folder: Path, memory_mb: int = 1024
) -> AsyncIterator[tuple["asyncio.Task[int]", psutil.Process]]:
    """Give a run that fits for ever, and its process."""
    a_job(folder, **ENDLESS)
    task = asyncio.create_task(done(nursery, folder, memory_mb))  # noqa: TID251 - ends within this block
    try:
        yield task, await begun(folder, nursery.pid)
    finally:
        task.cancel()
        await asyncio.wait([task])


async def begun(folder: Path, nursery: int | None) -> psutil.Process:
    found: list[psutil.Process] = []

    async def fits() -> bool:
        process = process_of(folder, nursery)
        log = folder / "log"
        if process is None or not log.exists() or "fitting 1 of 7" not in log.read_text():
            return False
        found.append(process)
        return True

    await eventually(fits, what="the fit to begin", deadline_s=180)  # a nursery has to load first
    return found[0]


def ended(*processes: psutil.Process) -> bool:
    return not any(it.is_running() and it.status() != psutil.STATUS_ZOMBIE for it in processes)


async def test_nothing_has_run_where_runs_are_forked_however_many_were(
    nursery: Nursery, tmp_path: Path
) -> None:
    for name in ("one", "two"):
        assert await done(nursery, a_job(tmp_path / name), memory_mb=512) == 0  # the least a spec may say

    assert psutil.Process(nursery.pid).num_threads() == 1
    assert psutil.Process(nursery.pid).children() == []
    assert (tmp_path / "one" / "model.onnx").read_bytes() == (tmp_path / "two" / "model.onnx").read_bytes()


def test_nothing_is_forked_where_another_thread_runs() -> None:
    over = threading.Event()
    other = threading.Thread(target=over.wait)
    other.start()
    try:
        with pytest.raises(RuntimeError, match="threads run where runs are forked"):
            child.see_alone()
    finally:
        over.set()
        other.join()


async def test_a_run_that_is_cancelled_is_gone_and_the_one_beside_it_goes_on(
    nursery: Nursery, tmp_path: Path
) -> None:
    async with at_work(nursery, tmp_path / "endless") as (task, process):
        assert await done(nursery, a_job(tmp_path / "beside")) == 0
        assert process.is_running()
        task.cancel()
        await asyncio.wait([task])

        assert ended(process)
        assert task.cancelled()
    log = (tmp_path / "beside" / "log").read_text()
    assert "linear: 400 rows" in log and "hist_gradient_boosting" not in log


@pytest.mark.parametrize("sent", [signal.SIGKILL, signal.SIGTERM])
async def test_the_signal_that_ends_a_run_is_told(
    nursery: Nursery, tmp_path: Path, sent: signal.Signals
) -> None:
    async with at_work(nursery, tmp_path / "run") as (task, process):
        process.send_signal(sent)
        assert await task == -sent


async def test_a_run_is_bound_to_its_memory_and_the_next_one_to_its_own(
    nursery: Nursery, tmp_path: Path
) -> None:
    limits = [psutil.Process(nursery.pid).rlimit(psutil.RLIMIT_DATA)]
    for memory_mb in (2048, 1024):
        async with at_work(nursery, tmp_path / str(memory_mb), memory_mb) as (_, process):
            limits.append(process.rlimit(psutil.RLIMIT_DATA))

    assert limits == [(-1, -1), (2048 << 20, 2048 << 20), (1024 << 20, 1024 << 20)]


async def test_a_job_that_is_not_there_costs_that_run_alone(nursery: Nursery, tmp_path: Path) -> None:
    before = nursery.pid

    assert await done(nursery, tmp_path / "nowhere") == 1
    assert await done(nursery, a_job(tmp_path / "here")) == 0
    assert nursery.pid == before


async def test_a_nursery_that_is_killed_takes_its_runs_along_and_is_replaced(tmp_path: Path) -> None:
    with Nursery() as nursery:
        async with at_work(nursery, tmp_path / "lost") as (task, process):
            first = psutil.Process(nursery.pid)
            first.kill()
            with pytest.raises(NurseryLost, match="the run begins again"):
                await task

        async def gone() -> bool:
            return ended(first, process)

        await eventually(gone, what="the run's process to end with it")
        assert await done(nursery, a_job(tmp_path / "again")) == 0
        assert nursery.pid != first.pid
        second = psutil.Process(nursery.pid)
    assert ended(second)


async def test_a_nursery_that_is_killed_before_it_reads_its_order_is_lost_as_any_other() -> None:
    with Nursery() as nursery:
        process = psutil.Process(nursery.pid)
        process.suspend()

        async def killed() -> None:
            async with nursery.started(Order(folder="", memory_mb=512)) as lines:
                process.kill()
                await lines.read()

        with pytest.raises(NurseryLost):
            await killed()


async def test_a_trainer_that_is_killed_leaves_no_process(tmp_path: Path) -> None:
    folder = a_job(tmp_path / "run", **ENDLESS)
    trainer = await asyncio.create_subprocess_exec(
        sys.executable, "-c", TRAINER, str(folder), stdout=asyncio.subprocess.PIPE
    )
    assert trainer.stdout
    nursery = psutil.Process(int(await trainer.stdout.readline()))
    process = await begun(folder, nursery.pid)

    trainer.kill()
    await trainer.wait()

    async def gone() -> bool:
        return ended(nursery, process)

    await eventually(gone, what="the nursery and its run to end")
