"""Runs a job in a child process that cannot take the trainer down, nor outlive it."""

import asyncio
import json
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path

import msgspec
from trimtab_contracts.common.v1.common_pb2 import Artifact
from trimtab_core import specs
from trimtab_runtime import artifacts

from trimtab_trainer.errors import RunFailed
from trimtab_trainer.job import FAILED
from trimtab_trainer.usecases.entities import Champion, Fitted, Progress, StoredFile, TrainingSet

_progress_of = msgspec.json.Decoder(Progress).decode


class ChildProcess:
    """Fits in `python -m trimtab_trainer.child`, within the spec's memory and time."""

    async def fit(
        self, model: specs.Model, rows: TrainingSet, champion: Champion | None, folder: Path,
        tell: Callable[[Progress], None],
    ) -> Fitted:  # fmt: skip
        """Train, export and evaluate, and tell how far that is.

        Raises:
            RunFailed: it could not be done; it says why.
            Unavailable: the champion's artifact cannot be read now.
        """
        live = champion and {
            "features": list(champion.features),
            "texts": list(champion.texts),
            "trained_to_ms": champion.trained_to_ms,
        }
        job = {
            "model": specs.to_document(model),
            "champion": live,
            "rows_of_other_classes": rows.rows_of_other_classes,
        }
        (folder / "job.json").write_text(json.dumps(job))
        if champion is not None:
            stored = Artifact(uri=champion.model.uri, digest=champion.model.digest, size=champion.model.size)
            (folder / "champion.onnx").write_bytes(await asyncio.to_thread(artifacts.fetch, stored))
        result = folder / "result.json"
        result.unlink(missing_ok=True)
        spec = model.spec.trainer
        code = await _run(folder, tell, memory_mb=spec.memory_mb, timeout_s=spec.timeout / 1000)
        if code not in (0, FAILED) or not result.exists():
            raise RunFailed(f"the training process {_ended(code, spec.memory_mb)}: see `trimtab run logs`")
        outcome = json.loads(result.read_text())
        if "error" in outcome:
            raise RunFailed(outcome["error"])
        return Fitted(
            model=folder / "model.onnx",
            reference=folder / "reference.arrow",
            evaluation=folder / "evaluation.arrow",
            **{**outcome, **{name: tuple(outcome[name]) for name in ("features", "texts", "classes")}},
        )


class Files:
    """Artifacts below the data folder."""

    def __init__(self, data_dir: Path) -> None:
        self._data_dir = data_dir

    def put(self, path: Path) -> StoredFile:
        """Store the file at `path` by digest."""
        stored = artifacts.put(self._data_dir, path.read_bytes())
        return StoredFile(stored.uri, stored.digest, stored.size)


async def _run(folder: Path, tell: Callable[[Progress], None], *, memory_mb: int, timeout_s: float) -> int:
    """Run the child, which writes how far it is to its standard output and all else to the log."""
    with (folder / "log").open("ab") as log:
        child = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "trimtab_trainer.child",
            str(folder),
            str(os.getpid()),
            str(memory_mb),
            stdout=asyncio.subprocess.PIPE,
            stderr=log,
        )
        try:
            async with asyncio.timeout(timeout_s):
                assert child.stdout is not None
                async for line in child.stdout:
                    tell(_progress_of(line))
                return await child.wait()
        except TimeoutError as error:
            raise RunFailed(
                f"the run took longer than trainer.timeout ({timeout_s:.0f} s) and was ended: raise it, or train on less"
            ) from error
        finally:
            if child.returncode is None:
                child.kill()
                await child.wait()


def _ended(code: int, memory_mb: int) -> str:
    if code < 0:
        return f"was ended by {signal.Signals(-code).name}"
    return f"ended with exit {code} (within {memory_mb} MB)"
