"""A run on a Ray cluster: trials side by side, then the fits that judge and ship, on one of its workers.

A task is a function of its arguments, which Ray may run anywhere: the rows and the
model go there, files come back, and no worker needs a way to the trainer's disk. What
fits is the child process of a run that is fitted here, with the same limits, so the same
rows, seed and software give the same bytes. A worker that is lost costs that task's
work: a trial is tried again by Ray, a run by its driver.
"""

import asyncio
import logging
import os
import resource
import shutil
import sys
import tempfile
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from queue import SimpleQueue
from typing import Any

import numpy as np
from trimtab_core.specs import ModelSpec
from trimtab_runtime import cluster
from trimtab_runtime.cluster import RayAway
from trimtab_runtime.errors import Unavailable
from trimtab_training import fitting, search
from trimtab_training.errors import RunFailed
from trimtab_training.families import Floats
from trimtab_training.progress import Progress, Stage, Tell, Telling

from trimtab_trainer import job, sandbox
from trimtab_trainer.nursery import Nursery

log = logging.getLogger(__name__)

_TRIES = 3
"""Of a run whose worker is lost each time."""
_FOLDERS = "trimtab-run-"
_LOOK_S = 1.0


@dataclass(frozen=True, slots=True)
class Place:
    """Where a run is put, and how much it may take there."""

    address: str
    memory_mb: int
    timeout_s: float

    @property
    def needs(self) -> dict[str, Any]:
        """What a task needs of a worker's machine."""
        return {"num_cpus": 1, "memory": self.memory_mb << 20}


def main(folder: Path, tell: Tell, place: Place) -> int:
    """Do the job in `folder` on a cluster, and return the exit code."""
    try:
        ray = cluster.connected(place.address, distribution="trimtab-trainer")
        try:
            if job.of(folder).spec.trainer.kind == "auto":
                _search(ray, folder, tell, place)
            return _run(ray, folder, tell, place)
        except (ConnectionError, ray.exceptions.RayError) as error:
            raise RayAway.by(place.address, error) from error
    except RayAway as away:
        return _away(folder, away)
    except RunFailed as error:
        return job.failed(folder, error)
    except (
        Exception
    ) as error:  # ours: a driver that ends in any other way has been ended by Ray, with its cluster
        log.exception("the driver failed")
        return job.failed(folder, RunFailed(f"{type(error).__name__}: {error}: see `trimtab run logs`"))


def _away(folder: Path, error: Unavailable) -> int:
    """Leave the sentence of a run that is to begin again in `folder`, and return the exit code."""
    (folder / "result.json").write_text(str(error))
    return sandbox.AWAY


def _search(ray: Any, folder: Path, tell: Tell, place: Place) -> None:
    """Search here, with each stretch of each trial judged on a worker."""
    the = job.given(folder)
    model = the.model
    seen = ray.put(search.older(the.rows, the.judged, model.spec))
    task = ray.remote(max_retries=1, **place.needs)(judge)

    def there(spec: ModelSpec, at: int) -> Floats:
        try:
            lost: Floats = ray.get(task.remote(spec, seen, at, place.memory_mb))
        except ray.exceptions.RayTaskError as error:
            raise error.cause from error  # as if it had been raised here
        except (ConnectionError, ray.exceptions.RaySystemError) as error:
            raise RayAway.by(place.address, error) from error
        return lost

    search.find(model, folder, Telling(tell), there, side_by_side=True)


def judge(spec: ModelSpec, seen: fitting.Rows, at: int, memory_mb: int) -> Floats:
    """Return what `search.judge` does, within a run's memory, in a worker that others use afterwards."""
    before = resource.getrlimit(resource.RLIMIT_DATA)
    resource.setrlimit(resource.RLIMIT_DATA, (_least(memory_mb << 20, before[1]), before[1]))
    try:
        # A copy, for what Ray hands over is of all tasks and cannot be written to.
        return search.judge(spec, seen[np.arange(len(seen))], at)
    finally:
        resource.setrlimit(resource.RLIMIT_DATA, before)


def _least(wanted: int, hard: int) -> int:
    return wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)


def _run(ray: Any, folder: Path, tell: Tell, place: Place) -> int:
    """Do the job on a worker, again if the worker is lost."""
    files = {path.name: path.read_bytes() for path in folder.iterdir() if path.name != "log"}
    sent = ray.put(files)
    # Ray's own retries would begin what has been told anew.
    task = ray.remote(num_returns="streaming", max_retries=0, **place.needs)(work)
    for left in reversed(range(_TRIES)):
        try:
            for said in _heard(ray, task.remote(sent, place), tell, place):
                if isinstance(said, Progress):
                    tell(said)
                else:
                    return _brought(folder, said)
        except ray.exceptions.RayTaskError as error:
            raise error.cause from error
        except (ray.exceptions.WorkerCrashedError, ray.exceptions.NodeDiedError, ray.exceptions.OutOfMemoryError,
                ray.exceptions.ObjectLostError, ray.exceptions.TaskUnschedulableError) as error:  # fmt: skip
            told = str(error).strip().partition("\n")[0]
            log.warning("the worker was lost, and the run is tried %s: %s", f"{left} times more", told)
            lost = error, told
    raise RunFailed(
        f"Ray at {place.address} lost the run's worker {_TRIES} times, the last time by {type(lost[0]).__name__}: "
        f"{lost[1]}: see to the cluster, or lower trainer.memory_mb ({place.memory_mb})"
    )


def _heard(ray: Any, saying: Any, tell: Tell, place: Place) -> Iterator[Any]:
    """Yield what a task says, and tell as long as it has no worker."""
    waits = f"a place on Ray at {place.address}: 1 CPU and {place.memory_mb} MB"
    while not ray.wait([saying], timeout=_LOOK_S)[0]:
        tell(Progress(Stage.WAITING, waits_for=waits))
    for each in saying:
        yield ray.get(each)


def _brought(folder: Path, said: tuple[int, Mapping[str, bytes]]) -> int:
    """Put the files that a worker made into `folder`, its log after our own, and return its exit code."""
    code, made = said
    for name, content in made.items():
        if name == "log":
            sys.stderr.write(content.decode(errors="replace"))
        else:
            (folder / name).write_bytes(content)
    return code


def work(files: Mapping[str, bytes], place: Place) -> Iterator[Progress | tuple[int, dict[str, bytes]]]:
    """Do a job in a folder on this worker: yield how far it is, and at last the exit code and the files it made."""
    yield Progress(Stage.READING)
    _sweep()
    with tempfile.TemporaryDirectory(prefix=f"{_FOLDERS}{os.getpid()}-") as directory:
        folder, said = Path(directory), SimpleQueue[Progress | None]()
        for name, content in files.items():
            (folder / name).write_bytes(content)

        async def child() -> int:
            with Nursery() as nursery:
                return await sandbox.run(
                    folder, said.put, nursery=nursery, memory_mb=place.memory_mb, timeout_s=place.timeout_s
                )

        with ThreadPoolExecutor(1) as one:
            running = one.submit(asyncio.run, child())
            running.add_done_callback(lambda _: said.put(None))
            while (progress := said.get()) is not None:
                yield progress
        try:
            code = running.result()
            sandbox.came_to(folder, code, place.memory_mb)
        except RunFailed as error:
            code = job.failed(folder, error)
        except Unavailable as error:  # the nursery was lost, which costs this try and not the run
            code = _away(folder, error)
        made = {path.name: path.read_bytes() for path in folder.iterdir() if path.name not in files}
    yield code, made


def _sweep() -> None:
    """Remove what killed workers have left on this machine: the rows of their runs."""
    for left in Path(tempfile.gettempdir()).glob(f"{_FOLDERS}*-*"):
        owner = left.name.removeprefix(_FOLDERS).partition("-")[0]
        if owner.isdecimal() and not _lives(int(owner)):
            shutil.rmtree(left, ignore_errors=True)


def _lives(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return True
