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
from trimtab_core import losses
from trimtab_core.specs import ModelSpec

from trimtab_training import environments, ownworker, signature
from trimtab_training.errors import RunFailed
from trimtab_training.families import Floats
from trimtab_training.inputs import Inputs, Matrix, pair

_SUM = 1e-3
"""So far from 1 the probabilities of all classes may sum up to."""
WHEEL, LOCK = "trainer", "requirements.lock"
"""What they are called in a job's folder: the wheel lies in a folder, for its own name tells pip what it is."""


class Line:
    """The line to the process of a trainer, which ends with this one."""

    def __init__(self, folder: Path, spec: ModelSpec, names: Sequence[str], texts: Sequence[str]) -> None:
        self.folder, self.names, self.texts = folder, tuple(names), tuple(texts)
        self.task, self.classes = spec.task, spec.label.classes
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


def open_line(folder: Path, spec: ModelSpec, names: Sequence[str], texts: Sequence[str]) -> dict[str, str]:
    """Start the trainer of the job in `folder`, the one that this process does, and return what names it; nothing if it has none.

    `names` are the features that are numbers, and `texts` the others.

    Raises:
        RunFailed: its environment cannot be made, or it is not there.
    """
    global _line
    if spec.trainer.kind != "own":
        return {}
    _line = Line(folder, spec, names, texts)
    return _line.facts()


def close_line() -> None:
    """End the trainer's process, if there is one."""
    global _line
    if _line is not None:
        _line.close()
        _line = None


def fit(spec: ModelSpec, features: Matrix | Inputs, labels: Floats, weights: Floats | None) -> "Remote":
    """Have the user's trainer fit."""
    assert _line is not None
    line, at = _line, str(_line.folder / f"own-{next(_numbers)}")
    _leave(at, features)
    np.save(f"{at}-label.npy", labels)
    if weights is not None:
        np.save(f"{at}-weight.npy", weights)
    champion = line.folder / "champion.onnx"
    line.ask(
        "fit", at=at, names=list(line.names), text_names=list(line.texts), classes=list(line.classes), task=spec.task, seed=spec.trainer.seed,
        parameters={name: _whole(value) for name, value in spec.trainer.parameters.items()},
        champion=str(champion) if champion.exists() else None,
    )  # fmt: skip
    for part in ("features.npy", "texts.json", "label.npy", "weight.npy"):
        Path(f"{at}-{part}").unlink(missing_ok=True)
    return Remote(line, at)


def _leave(at: str, features: Matrix | Inputs) -> None:
    """Leave what a trainer is shown of some rows where it looks for it; texts as JSON, of which nothing has to be unpickled."""
    numbers, texts = pair(features)
    np.save(f"{at}-features.npy", numbers)
    if texts.shape[1]:
        Path(f"{at}-texts.json").write_text(json.dumps(texts.tolist()))


@dataclass(frozen=True, slots=True, weakref_slot=True, eq=False)
class Remote:
    """What the user's trainer has fitted, at the other end."""

    line: Line
    at: str

    def __post_init__(self) -> None:
        weakref.finalize(self, self.line.drop, self.at)

    def predict(self, features: Matrix | Inputs) -> Floats:
        """Return predictions [rows], or probabilities [rows, classes].

        Raises:
            RunFailed: the user's code raises, or gives no number a row, or no probability of each class.
        """
        _leave(f"{self.at}-asked", features)
        self.line.ask("predict", at=self.at)
        said: Floats = np.load(f"{self.at}-said.npy")
        rows, of_classes = len(features), self.line.task == "multiclass"
        fitting = [(rows, len(self.line.classes))] if of_classes else [(rows,), (rows, 1)]
        if said.shape not in fitting:
            wanted = f"the probabilities of {', '.join(self.line.classes)}" if of_classes else "one a row"
            raise RunFailed(
                f"the trainer's predict gave numbers of shape {list(said.shape)} for {rows} rows: give {wanted}"
            )
        if bad := int((~np.isfinite(said.reshape(rows, -1)).all(axis=1)).sum()):
            raise RunFailed(
                f"the trainer's predict gave no number for {bad} of {rows} rows: features may be NaN, so allow for it"
            )
        said = said if of_classes else said.reshape(-1)
        return said if self.line.task == "regression" else probable(said, "the trainer's predict")

    def to_onnx(self) -> Any:
        """Return the graph."""
        self.line.ask("export", at=self.at)
        line = self.line
        return signature.adapted(
            Path(f"{self.at}.onnx").read_bytes(),
            line.names,
            line.task,
            texts=line.texts,
            classes=line.classes,
        )


def probable(said: Floats, who: str) -> Floats:
    """Return the probabilities [rows], or [rows, classes], that somebody gave, without what rounding has put beyond 0 and 1.

    Raises:
        RunFailed: they are none.
    """
    within, fit = np.clip(said, 0, 1), losses.are_probabilities(said)
    if said.ndim == 1:
        if not fit.all():
            worst = said[np.argmax(np.abs(said - 0.5))]
            raise RunFailed(
                f"{who} gives {worst:.4g}, and the task is binary: export the probability of the positive class"
            )
        return within
    bad = ~fit.all(axis=1) | (np.abs(said.sum(axis=1) - 1) > _SUM)
    if bad.any():
        row = ", ".join(f"{each:.4g}" for each in said[bad.argmax()])
        raise RunFailed(
            f"{who} gives {row} for the classes of a row: give probabilities, which sum to 1 (a softmax)"
        )
    return within


def _whole(value: Any) -> Any:
    """Return a parameter as it was written: a spec travels as JSON, in which 200 and 200.0 are one number."""
    return int(value) if isinstance(value, float) and value.is_integer() else value
