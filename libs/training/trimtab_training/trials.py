"""What a search for a model tried, and what survives the trainer that tried it.

A job's folder has the trials that earlier attempts ended; whoever searches there again
takes them as done, so a search that is taken over goes on. They count for the same
rows and the same spec alone.
"""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

import msgspec
from trimtab_core.specs import Model, to_document

_FILE = "trials.json"


class Outcome(StrEnum):
    """What became of a trial."""

    COMPLETE = "complete"
    PRUNED = "pruned"
    FAILED = "failed"


@dataclass(frozen=True, slots=True)
class Trial:
    """One family with one set of parameters, tried; numbers count from 0."""

    number: int
    family: str
    parameters: Mapping[str, float | int | str | bool]
    metric: str
    outcome: Outcome
    values: tuple[float, ...]
    """Its metric after each stretch of rows, all up to there; of one that is complete the last is what counts."""
    seconds: float
    spent_s: float
    """How long the search had taken when this trial ended."""
    error: str = ""

    @property
    def value(self) -> float | None:
        """What it came to, None if it failed before it had said anything."""
        return self.values[-1] if self.values else None

    def __str__(self) -> str:
        return f"{self.metric} {self.value:.4g} by {self.family}" if self.values else f"none by {self.family}"


def deadly(number: int, error: str) -> Trial:
    """Return a trial that its process died of: whoever goes on with the search knows what it was, and does not try it again."""
    return Trial(number, "", {}, "", Outcome.FAILED, (), 0.0, 0.0, error)


def best(trials: Sequence[Trial]) -> Trial | None:
    """Return the complete trial of the least value, the first of equals."""
    complete = [trial for trial in trials if trial.outcome is Outcome.COMPLETE]
    return min(complete, key=lambda trial: (trial.values[-1], trial.number), default=None)


def fingerprint(rows_digest: str, model: Model) -> str:
    """Return what a search's trials depend on: its rows and the spec."""
    said = msgspec.json.encode([rows_digest, to_document(model)["spec"]], order="sorted")
    return hashlib.sha256(said).hexdigest()


def hand_over(folder: Path, trials: Sequence[Trial]) -> None:
    """Put the trials of earlier attempts into a job's folder."""
    (folder / _FILE).write_bytes(msgspec.json.encode(list(trials)))


def handed_over(folder: Path) -> list[Trial]:
    """Return the trials of earlier attempts at the job in `folder`."""
    path = folder / _FILE
    return msgspec.json.decode(path.read_bytes(), type=list[Trial]) if path.exists() else []
