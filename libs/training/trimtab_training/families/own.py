"""A user's own trainer: their code, in a process and an environment of its own.

What it fits lives there; here is the other end of the line. Its graph is adapted as a
registered one is, and held against what its `predict` says like any family's.
"""

import hashlib
import json
import logging
import os
import subprocess
import weakref
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
from trimtab_core.specs import ModelSpec

from trimtab_training import environments, ownworker, signature
from trimtab_training.errors import RunFailed
from trimtab_training.families import Floats, Matrix

WHEEL, LOCK = "trainer", "requirements.lock"
"""What they are called in a job's folder: the wheel lies in a folder, for its own name tells pip what it is."""


class Line:
    """The line to the process of a trainer, which ends with this one."""

    def __init__(self, folder: Path, spec: ModelSpec, names: Sequence[str]) -> None:
        self.folder, self.names, self.task = folder, tuple(names), spec.task
        self._wheel = next(iter((folder / WHEEL).glob("*.whl")), None)
        self._lock = found if (found := folder / LOCK).exists() else None
        place = environments.of(self._wheel, self._lock, folder.parent.with_name("environments"))
        command = [place.python, ownworker.__file__, spec.trainer.entry_point or "", str(os.getpid())]
        self._process = subprocess.Popen(
            [*command, *([place.packages] if place.packages else [])],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=folder, text=True,
        )  # fmt: skip
        self._dropped: list[str] = []

    def ask(self, do: str, **given: Any) -> Any:
        """Return what the trainer answers; its progress is printed on the way.

        Raises:
            RunFailed: its code raises, is not what the protocol asks for, or ends the process.
        """
        process = self._process
        assert process.stdin is not None and process.stdout is not None
        try:
            dropped, self._dropped = self._dropped, []
            process.stdin.write(json.dumps({"do": do, "dropped": dropped, **given}) + "\n")
            process.stdin.flush()
        except BrokenPipeError:  # how it ended is found below
            log.info("the trainer's process has ended")
        for line in process.stdout:
            told = json.loads(line)
            if "iteration" in told:
                print(f"[{told['iteration']}/{told['iterations']}]")
            elif "error" in told:
                raise RunFailed(told["error"])
            else:
                return told["answer"]
        raise RunFailed(
            f"the trainer's process ended with exit {process.wait()} in {do}: see `trimtab run logs`"
        )

    def close(self) -> None:
        """End the process."""
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.kill()
        self._process.wait()
        with suppress(BrokenPipeError):
            self._process.stdin.close()
        self._process.stdout.close()

    def drop(self, at: str) -> None:
        """Let what was fitted be forgotten, with what is asked next."""
        self._dropped.append(at)

    def facts(self) -> dict[str, str]:
        """Return what names the trainer's code, and what is installed beside it."""
        files = {"wheel": self._wheel, "lock": self._lock}
        digests = {
            name: hashlib.sha256(path.read_bytes()).hexdigest() for name, path in files.items() if path
        }
        return {f"trainer.{name}": value for name, value in (digests | self.ask("facts")).items()}


log = logging.getLogger(__name__)
_line: Line | None = None
_numbers = count(1)


def open_line(folder: Path, spec: ModelSpec, names: Sequence[str]) -> dict[str, str]:
    """Start the trainer of the job in `folder`, the one that this process does, and return what names it; nothing if it has none.

    Raises:
        RunFailed: its environment cannot be made, or it is not there.
    """
    global _line
    if spec.trainer.kind != "own":
        return {}
    _line = Line(folder, spec, names)
    return _line.facts()


def close_line() -> None:
    """End the trainer's process, if there is one."""
    global _line
    if _line is not None:
        _line.close()
        _line = None


def fit(spec: ModelSpec, features: Matrix, labels: Floats, weights: Floats | None) -> "Remote":
    """Have the user's trainer fit."""
    assert _line is not None
    line, at = _line, str(_line.folder / f"own-{next(_numbers)}")
    np.save(f"{at}-features.npy", features)
    np.save(f"{at}-label.npy", labels)
    if weights is not None:
        np.save(f"{at}-weight.npy", weights)
    champion = line.folder / "champion.onnx"
    line.ask(
        "fit", at=at, names=list(line.names), task=spec.task, seed=spec.trainer.seed,
        parameters={name: _whole(value) for name, value in spec.trainer.parameters.items()},
        champion=str(champion) if champion.exists() else None,
    )  # fmt: skip
    for part in ("features", "label", "weight"):
        Path(f"{at}-{part}.npy").unlink(missing_ok=True)
    return Remote(line, at)


@dataclass(frozen=True, slots=True, weakref_slot=True, eq=False)
class Remote:
    """What the user's trainer has fitted, at the other end."""

    line: Line
    at: str

    def __post_init__(self) -> None:
        weakref.finalize(self, self.line.drop, self.at)

    def predict(self, features: Matrix) -> Floats:
        """Return predictions [rows].

        Raises:
            RunFailed: the user's code raises, or gives no number a row.
        """
        np.save(f"{self.at}-asked.npy", features)
        self.line.ask("predict", at=self.at)
        said: Floats = np.load(f"{self.at}-said.npy")
        if said.shape not in ((len(features),), (len(features), 1)):
            raise RunFailed(
                f"the trainer's predict gave numbers of shape {list(said.shape)} for {len(features)} rows: give one a row"
            )
        if bad := int((~np.isfinite(said)).sum()):
            raise RunFailed(
                f"the trainer's predict gave no number for {bad} of {len(features)} rows: features may be NaN, so allow for it"
            )
        return said.reshape(-1)

    def to_onnx(self) -> Any:
        """Return the graph."""
        self.line.ask("export", at=self.at)
        return signature.adapted(Path(f"{self.at}.onnx").read_bytes(), self.line.names, self.line.task)


def _whole(value: Any) -> Any:
    """Return a parameter as it was written: a spec travels as JSON, in which 200 and 200.0 are one number."""
    return int(value) if isinstance(value, float) and value.is_integer() else value
