"""Work that would hold up the loop, in child processes of low priority that cannot outlive it.

A calibration is seconds of numpy for a wide model, and Evidently takes seconds to
import: neither has a place in a process that answers marks within milliseconds.
"""

import asyncio
import json
import os
import signal
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import msgspec
import numpy as np
from trimtab_core import windows
from trimtab_core.baseline import Calibration, Settings
from trimtab_core.losses import Task
from trimtab_core.watched import Row
from trimtab_runtime import artifacts
from trimtab_runtime.errors import Rejected
from trimtab_runtime.reports import LABEL

from trimtab_monitoring import messages
from trimtab_monitoring.errors import Overwhelmed
from trimtab_monitoring.usecases.entities import LabelStream, ReportOrder, StoredFile

_PATIENCE_S = 600.0
_LAST_WORDS = 500


class CannotBeDone(Rejected):
    """A child process could not do its work; it says what it said last."""


class Workshop:
    """Runs one calibration and one report at a time."""

    def __init__(self, state_dir: Path) -> None:
        self._folder = state_dir / "workshop"
        self._drawing = asyncio.Lock()

    async def calibrate(self, reference: StoredFile, settings: Settings) -> Calibration:
        """Return the calibration that a reference gives.

        Raises:
            Corrupt, CannotBeDone: it is not what its digest or its format promises.
            Unavailable: it cannot be read now, or the work took too long.
        """
        content = await asyncio.to_thread(artifacts.fetch, messages.artifact(reference))
        with _folder(self._folder) as folder:
            (folder / "reference.arrow").write_bytes(content)
            (folder / "settings.json").write_bytes(msgspec.json.encode(settings))
            await _run("trimtab_monitoring.calibrate", folder)
            return msgspec.json.decode((folder / "calibration.json").read_bytes(), type=Calibration)

    async def report(
        self, order: ReportOrder, rows: Sequence[Row], features: Sequence[str], reference: StoredFile
    ) -> None:
        """Write the report of `rows` beside the reference, as HTML at the order's path and as JSON next to it.

        Raises:
            Corrupt, CannotBeDone: it cannot be made of these.
            Unavailable: the reference cannot be read now.
            Overwhelmed: the work took too long, or was killed.
        """
        html, json_ = await self.draw(order.task, order.labels, rows, features, reference)
        path = Path(order.path)
        path.parent.mkdir(parents=True, exist_ok=True)
        for suffix, content in ((".json", json_), (".html", html)):
            made = path.with_suffix(f"{suffix}.new")
            made.write_bytes(content)
            made.rename(path.with_suffix(suffix))

    async def draw(
        self,
        task: Task | None,
        labels: LabelStream,
        rows: Sequence[Row],
        features: Sequence[str],
        reference: StoredFile,
    ) -> tuple[bytes, bytes]:
        """Return the report of `rows` beside the reference, as HTML and as JSON; it waits for one that is being made.

        Labels that come for wanted rows alone are left out: of rows that were chosen a mean says nothing of the rest.

        Raises:
            Corrupt, CannotBeDone: it cannot be made of these.
            Unavailable: the reference cannot be read now.
            Overwhelmed: the work took too long, or was killed.
        """
        content = await asyncio.to_thread(artifacts.fetch, messages.artifact(reference))
        async with self._drawing:
            with _folder(self._folder) as folder:
                (folder / "reference.arrow").write_bytes(content)
                found = windows.columns(rows, features)
                if task is not None and not labels.wanted:
                    found[LABEL] = np.array([row.label for row in rows], np.float64)
                texts = {name: column.astype(str) for name, column in found.items() if column.dtype == object}
                np.savez(folder / "window.npz", **found | texts)  # type: ignore[arg-type]
                (folder / "about.json").write_text(json.dumps({"task": task, "classes": labels.classes}))
                await _run("trimtab_monitoring.report", folder)
                return (folder / "report.html").read_bytes(), (folder / "report.json").read_bytes()

    async def drawn(self, path: str) -> tuple[bytes, bytes] | None:
        """Return the report that was written to an order's path, as HTML and as JSON; None if none is there."""

        def read() -> tuple[bytes, bytes] | None:
            try:
                return Path(path).read_bytes(), Path(path).with_suffix(".json").read_bytes()
            except FileNotFoundError:
                return None

        return await asyncio.to_thread(read)


@contextmanager
def _folder(parent: Path) -> Iterator[Path]:
    """Make a folder that is gone afterwards."""
    parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=parent) as name:
        yield Path(name)


async def _run(module: str, folder: Path) -> None:
    """Run `python -m module folder`, which ends with this process, until it is done."""
    with (folder / "log").open("wb") as log:
        child = await asyncio.create_subprocess_exec(
            sys.executable, "-m", module, str(folder), str(os.getpid()), stdout=log, stderr=log
        )
    try:
        async with asyncio.timeout(_PATIENCE_S):
            code = await child.wait()
    except TimeoutError as error:
        raise Overwhelmed(f"{module} took longer than {_PATIENCE_S:.0f} s and was ended") from error
    finally:
        if child.returncode is None:
            child.kill()
            await child.wait()
    if code != 0:
        said = (folder / "log").read_text(errors="replace").strip()[-_LAST_WORDS:]
        if code < 0:
            raise Overwhelmed(f"{module} was ended by {signal.Signals(-code).name}: {said}")
        raise CannotBeDone(f"{module} ended with exit {code}: {said}")
