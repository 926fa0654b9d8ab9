"""Shows how far a run is, and ends as it ends: what `run watch` and `model train --wait` share."""

import asyncio
import json
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Annotated

import typer
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
from trimtab_contracts.training.v1 import training_pb2 as training
from trimtab_contracts.training.v1.training_pb2 import RunEvent
from trimtab_core.losses import LOWER_IS_BETTER
from trimtab_runtime.errors import Rejected, Unavailable

from trimtab.cli.session import ask, console, plain, print_json
from trimtab.client import Trimtab

Wait = Annotated[
    bool,
    typer.Option(
        "--wait/--no-wait",
        help="Watch the run, and end as it ends: 0, 1 if it failed, 3 if it was cancelled.",
    ),
]
"""Whether a command that orders a run waits for it."""
CANCELLED = 3
"""The exit code where the run was cancelled; it is 1 where it failed."""
_SHARES = {"READING": 2, "EVALUATING": 90, "EXPORTING": 93, "EXPLAINING": 95, "STORING": 98}
_FITTING = (4, 90)
_SEARCHED = 60
"""Where the fits begin if a search went before, in percent."""
_APPEARS_S = 60
_ENDED = (RunEvent.SUCCEEDED, RunEvent.FAILED, RunEvent.CANCELLED)


def watch(directory: Path, find: Callable[[Trimtab], Awaitable[str]], *, as_json: bool) -> RunEvent:
    """Follow the run that `find` names until it has ended, and return how it has.

    Raises:
        Rejected: it failed.
    """

    async def follow(trimtab: Trimtab) -> training.Run:
        changes = trimtab.watch_run(await find(trimtab))
        return await (_print_json if as_json else _draw)(changes)

    event = ask(directory, follow).event
    if event.status == RunEvent.FAILED:
        raise Rejected(f"run {event.run_id} failed: {event.error}")
    if event.status == RunEvent.CANCELLED:
        sys.stderr.write(f"{sentence(event)}\n")
        raise typer.Exit(CANCELLED)
    if not as_json and not event.reproduces:
        console.print(sentence(event), highlight=False)
    return event


def ordered(directory: Path, model: str, command_id: str, *, wait: bool, as_json: bool) -> None:
    """Tell of a command that was just given: its run until that has ended, or else how to follow it."""
    if wait:
        watch(directory, lambda trimtab: run_of(trimtab, model, command_id), as_json=as_json)
    elif as_json:
        print_json({"command_id": command_id})
    else:
        console.print(f"ordered: follow it with `trimtab loop show {command_id}`")


async def run_of(trimtab: Trimtab, model: str, command_id: str) -> str:
    """Return the run of a command that was just given, once it is queued.

    Raises:
        Unavailable: no trainer has taken the command.
    """
    for _ in range(_APPEARS_S * 2):
        for run in await trimtab.runs(model):
            if run.event.command_id == command_id:
                return run.event.run_id
        await asyncio.sleep(0.5)
    raise Unavailable(
        f"no trainer has taken command {command_id} after {_APPEARS_S} s: see `trimtab status`, "
        f"and `trimtab loop show {command_id}` for what becomes of it"
    )


def sentence(event: RunEvent) -> str:
    """Return how a run ended."""
    if event.status == RunEvent.CANCELLED:
        because = f": {event.cancel_reason}" if event.cancel_reason else ""
        return f"run {event.run_id} was cancelled by {event.cancelled_by}{because}"
    if event.reproduces:
        return f"run {event.run_id} made {event.reproduces} once more: {event.reproduction.sentence}"
    metrics = ", ".join(
        f"{name} {value:.4g}"
        for name, value in sorted(event.candidate.metrics.items())
        if name.removeprefix("champion_") in LOWER_IS_BETTER
    )
    return f"run {event.run_id} succeeded on {event.candidate.rows} rows: {metrics}"


def said(run: training.Run) -> str:
    """Return where a run is, in a few words."""
    if run.event.status == RunEvent.QUEUED and not run.attempt:
        return "waits for its turn"
    at, words = run.progress, training.Progress.Stage.Name(run.progress.stage).lower()
    if at.stage in (training.Progress.STAGE_UNSPECIFIED, training.Progress.WAITING):
        words = f"waits for its rows: {at.waits_for}" if at.waits_for else "waits for its rows"
    if at.stage == training.Progress.SEARCHING:
        words = f"trial {at.trial} of {at.trials}" + (f", best {at.best}" if at.best else "")
    if at.stage == training.Progress.FITTING:
        words = f"fitting {at.fit} of {at.fits}"
    if at.iterations:
        words += f", iteration {at.iteration} of {at.iterations}"
    return words if run.attempt < 2 else f"{words} (attempt {run.attempt})"


def share(progress: training.Progress) -> float:
    """Return how much of a run is done, in percent."""
    begin, end = _FITTING
    begun = progress.iteration / progress.iterations if progress.iterations else 0
    match progress.stage:
        case (
            training.Progress.SEARCHING
        ):  # a trial's iterations are of one of its fits: the bar would go back
            return begin + (_SEARCHED - begin) * (progress.trial - 1) / progress.trials
        case training.Progress.FITTING:
            begin = _SEARCHED if progress.trials else begin
            return begin + (end - begin) * (progress.fit - 1 + begun) / progress.fits
    return _SHARES.get(training.Progress.Stage.Name(progress.stage), 0)


async def _draw(changes: AsyncIterator[training.Run]) -> training.Run:
    """Show a bar in a terminal, and elsewhere a line for each change of the words."""
    columns = (TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn())
    line = ""
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task("", total=100)
        async for run in changes:
            bar.update(task, description=said(run), completed=share(run.progress))
            words = said(run).partition(", iteration")[0]
            if not console.is_terminal and words != line and run.event.status not in _ENDED:
                console.print(line := words, highlight=False, soft_wrap=True)
    return run


async def _print_json(changes: AsyncIterator[training.Run]) -> training.Run:
    """Print each change as a line of JSON."""
    async for run in changes:
        print(json.dumps(plain(run)), flush=True)
    return run
