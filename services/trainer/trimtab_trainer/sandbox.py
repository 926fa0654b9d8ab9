"""Runs a job in a child process that cannot take the trainer down, nor outlive it."""

import asyncio
import json
import signal
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import msgspec
from trimtab_contracts.common.v1.common_pb2 import Artifact
from trimtab_core import specs
from trimtab_runtime import artifacts, cluster
from trimtab_runtime.cluster import RayAway
from trimtab_training import search
from trimtab_training.errors import RunFailed
from trimtab_training.families import own
from trimtab_training.progress import Progress, Stage
from trimtab_training.trials import Trial, deadly, hand_over, handed_over

from trimtab_trainer.errors import NurseryLost
from trimtab_trainer.job import FAILED
from trimtab_trainer.nursery import Nursery, Order
from trimtab_trainer.usecases.entities import Fitted, Plan, Recipe, Registered, StoredFile, TrainingSet

_said = msgspec.json.Decoder(Progress | int).decode

AWAY = 4
"""Exit code of a child that could not reach the cluster."""


class ChildProcess:
    """Fits in a process of the nursery's, within the spec's memory and time; on a Ray cluster, if it has an address.

    There the child is Ray's driver, which dies with its cluster as this process must not.
    """

    def __init__(self, nursery: Nursery, ray_address: str | None = None) -> None:
        self._nursery = nursery
        self._ray_address = ray_address

    async def fit(
        self, recipe: Recipe, rows: TrainingSet, folder: Path, tell: Callable[[Progress], None]
    ) -> Fitted:
        """Train, export and evaluate, and tell how far that is.

        Raises:
            RunFailed: it could not be done; it says why.
            Unavailable: the champion's artifact cannot be read now, the cluster is away, or the nursery was lost.
        """
        model, champion = recipe.model, recipe.champion
        live = champion and {
            "features": list(champion.features),
            "texts": list(champion.texts),
            "trained_to_ms": champion.trained_to_ms,
        }
        job = {
            "model": specs.to_document(model),
            "champion": live,
            "changed_ms": recipe.changed_ms,
            "rows_of_other_classes": rows.rows_of_other_classes,
        }
        if recipe.plan is not None:
            job["plan"] = {"every": recipe.plan.every, "stretches": recipe.plan.stretches}
        (folder / "job.json").write_text(json.dumps(job))
        if champion is not None:
            content = await asyncio.to_thread(artifacts.fetch, _named(champion.model))
            (folder / "champion.onnx").write_bytes(content)
        result = folder / "result.json"
        for earlier in (result, folder / search.FOUND):  # of another spec, maybe
            earlier.unlink(missing_ok=True)
        spec = model.spec.trainer
        # What a user has brought along is at hand here, and only here.
        is_theirs = spec.kind == "own" or (folder / "registered.json").exists()
        address = None if is_theirs else self._ray_address
        if address:
            await asyncio.to_thread(cluster.look_for, address)
        watch, clock = _Watch(folder, tell), asyncio.get_running_loop().time
        until_s, timeout_s = clock() + spec.timeout / 1000, spec.timeout / 1000
        while True:
            code = await run(
                folder, watch.hear, nursery=self._nursery, memory_mb=spec.memory_mb, timeout_s=timeout_s,
                left_s=until_s - clock(), ray_address=address,
            )  # fmt: skip
            # Ray's driver dies of no trial: those are its workers'.
            if code in (0, FAILED) or address or not watch.died_of_a_trial(_ended(code, spec.memory_mb)):
                break
        if code == AWAY:
            raise RayAway(result.read_text())
        if address and code not in (0, FAILED):
            raise RayAway(f"Ray at {address} was lost with the run: it goes on when Ray is back")
        came_to(folder, code, spec.memory_mb)
        outcome = json.loads(result.read_text())
        if "error" in outcome:
            raise RunFailed(outcome["error"])
        return Fitted(
            model=folder / "model.onnx",
            reference=folder / "reference.arrow",
            evaluation=folder / "evaluation.arrow",
            evidence=folder / "evidence.json",
            **{
                **outcome,
                **{name: tuple(outcome[name]) for name in ("features", "texts", "classes")},
                "plan": Plan(**outcome["plan"]),
            },
        )


class _Watch:
    """Hears what a child tells, so that one that dies of a trial costs the search that trial and no other."""

    def __init__(self, folder: Path, tell: Callable[[Progress], None]) -> None:
        self._folder = folder
        self._tell = tell
        self._ended: list[Trial] = []
        self._newest: Progress | None = None

    def hear(self, progress: Progress) -> None:
        """Pass on how far the child is."""
        if progress.ended:
            self._ended.append(progress.ended)
        self._newest = progress
        self._tell(progress)

    def died_of_a_trial(self, how: str) -> bool:
        """Return whether it was at a trial; then the next child goes on after it."""
        newest, numbers = self._newest, {trial.number for trial in self._ended}
        if newest is None or newest.stage is not Stage.SEARCHING or newest.trial - 1 in numbers:
            return False
        self._ended.append(deadly(newest.trial - 1, f"the training process {how}"))
        earlier = [trial for trial in handed_over(self._folder) if trial.number not in numbers]
        hand_over(self._folder, [*earlier, *self._ended])
        return True


class Files:
    """Artifacts, where they are kept."""

    def __init__(self, home: str | Path) -> None:
        """`home` is what `artifacts.home` returned."""
        self._home = home

    def put(self, path: Path) -> StoredFile:
        """Store the file at `path` by digest."""
        stored = artifacts.put(self._home, path.read_bytes())
        return StoredFile(stored.uri, stored.digest, stored.size)

    def bring(self, registered: Registered | None, trainer: specs.TrainerSpec, folder: Path) -> None:
        """Put what a user brought along into a job's folder: the model that is judged in the place of a fit, or else their trainer.

        Raises:
            NotFound, Corrupt, Unavailable: it is not there, not as it was, or cannot be read now.
        """
        if registered is None:
            self._bring_trainer(trainer, folder)
            return
        if registered.model is not None:
            (folder / "registered.onnx").write_bytes(artifacts.fetch(_named(registered.model)))
        for part in registered.parts:
            (folder / f"version-{part.version}.onnx").write_bytes(artifacts.fetch(_named(part.model)))
        if registered.reference is not None:
            (folder / "registered.parquet").write_bytes(artifacts.fetch(_named(registered.reference)))
        known = {
            "origin": registered.origin,
            "trained_to_ms": registered.trained_to_ms,
            "parts": [asdict(part) for part in registered.parts],
        }
        (folder / "registered.json").write_text(json.dumps(known))

    def _bring_trainer(self, trainer: specs.TrainerSpec, folder: Path) -> None:
        (folder / own.WHEEL).mkdir(exist_ok=True)
        for pinned, place in ((trainer.wheel, f"{own.WHEEL}/{{}}"), (trainer.lock, own.LOCK)):
            if pinned is not None:
                name, digest = specs.unpinned(pinned)
                content = artifacts.fetch(artifacts.find(self._home, digest))
                (folder / place.format(name)).write_bytes(content)

    def find(self, digest: str) -> StoredFile:
        """Return what is stored by a digest.

        Raises:
            NotFound: nothing is.
        """
        stored = artifacts.find(self._home, digest)
        return StoredFile(stored.uri, stored.digest, stored.size)


def _named(file: StoredFile) -> Artifact:
    return Artifact(uri=file.uri, digest=file.digest, size=file.size)


def came_to(folder: Path, code: int, memory_mb: int) -> None:
    """See that a child has left a result in `folder`.

    Raises:
        RunFailed: it died before.
    """
    if code not in (0, FAILED) or not (folder / "result.json").exists():
        raise RunFailed(
            f"the training process {_ended(code, memory_mb)}: see `trimtab run logs`, and raise that if memory was it"
        )


async def run(
    folder: Path, tell: Callable[[Progress], None], *, nursery: Nursery, memory_mb: int, timeout_s: float,
    left_s: float | None = None, ray_address: str | None = None,
) -> int:  # fmt: skip
    """Do the job in `folder` in a process of its own, and return how that ended.

    Of `timeout_s` it has `left_s` left, if that is given; its time does not run while it waits for a place on a cluster.

    Raises:
        RunFailed: it took too long.
        NurseryLost: it was lost through no fault of its own.
    """
    order = Order(folder=str(folder), memory_mb=memory_mb, ray_address=ray_address, timeout_s=timeout_s)
    try:
        async with (
            nursery.started(order) as lines,
            asyncio.timeout(timeout_s if left_s is None else left_s) as limit,
        ):
            async for line in lines:
                said = _said(line)
                if isinstance(said, int):
                    return said
                tell(said)
                if said.stage is Stage.WAITING:
                    limit.reschedule(asyncio.get_running_loop().time() + timeout_s)
    except TimeoutError as error:
        raise RunFailed(
            f"the run took longer than trainer.timeout ({timeout_s:.0f} s) and was ended: raise it, or train on less"
        ) from error
    raise NurseryLost


def _ended(code: int, memory_mb: int) -> str:
    if code < 0:
        return f"was ended by {signal.Signals(-code).name} (trainer.memory_mb is {memory_mb})"
    return f"ended with exit {code} (trainer.memory_mb is {memory_mb})"
