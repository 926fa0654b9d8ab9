"""`trimtab run list | show | watch | logs | trials | cancel | note | compare`."""

from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Annotated, Any

import typer
from trimtab_contracts.training.v1.training_pb2 import Note, Reproduction, Run, RunEvent, Trial
from trimtab_runtime.clock import from_timestamp, iso
from trimtab_runtime.errors import NotFound, Rejected

from trimtab.cli.session import HOME, Directory, Json, actor, ask, console, plain, print_json, show
from trimtab.cli.watching import sentence
from trimtab.cli.watching import watch as follow
from trimtab.client import Trimtab
from trimtab.evidence import told
from trimtab.figures import figures
from trimtab.pages import Heading, Page, Picture, Table, Text

app = typer.Typer(no_args_is_help=True)


@app.command("list")
def list_(
    model: Annotated[str, typer.Argument()] = "", directory: Directory = HOME, as_json: Json = False
) -> None:
    """List the runs of MODEL, or of all, newest first."""
    found = ask(directory, lambda trimtab: trimtab.runs(model))
    if as_json:
        print_json([plain(run) for run in found])
        return
    rows = [
        {
            "run": run.event.run_id,
            "model": run.event.model,
            "trigger": run.event.trigger,
            "status": RunEvent.Status.Name(run.event.status).lower(),
            "as of": iso(from_timestamp(run.event.as_of)),
            "rows": run.event.candidate.rows or None,
            "error": run.event.error or run.event.cancel_reason,
        }
        for run in found
    ]
    show(rows, as_json=False, empty="there is no run: order one with `trimtab model train MODEL`")


@app.command("show")
def show_(run_id: str, directory: Directory = HOME, as_json: Json = False) -> None:
    """Show what a run was made of, what it came to and what was written on it; all that is recorded with --json."""
    run = ask(directory, lambda trimtab: trimtab.run(run_id))
    if as_json:
        print_json(plain(run))
        return
    known = {name: value for name, value in _facts(run, in_words=True).items() if value is not None}
    show([{"run": name, run_id: value} for name, value in known.items()], as_json=False)
    for note in run.notes:
        console.print(_written(note), highlight=False, markup=False, soft_wrap=True)


@app.command()
def note(
    run_id: str,
    text: Annotated[str, typer.Argument(help="What to write, of at most 4,000 characters.")],
    directory: Directory = HOME,
    as_json: Json = False,
) -> None:
    """Write a note on RUN_ID, for whoever looks at it later; what was written stays."""
    run = ask(directory, lambda trimtab: trimtab.note_run(run_id, text, actor=actor()))
    if as_json:
        print_json(plain(run))
        return
    console.print(_written(run.notes[-1]), highlight=False, markup=False, soft_wrap=True)


@app.command()
def watch(run_id: str, directory: Directory = HOME, as_json: Json = False) -> None:
    """Show how far RUN_ID is, and end as it ends: 0, 1 if it failed, 3 if it was cancelled."""

    async def named(_: object) -> str:
        return run_id

    follow(directory, named, as_json=as_json)


@app.command()
def logs(run_id: str, directory: Directory = HOME) -> None:
    """Print what the training process of RUN_ID wrote; it is kept, up to 1 MiB, when the process ends."""
    typer.echo(ask(directory, lambda trimtab: trimtab.run_log(run_id)), nl=False)


@app.command()
def trials(run_id: str, directory: Directory = HOME, as_json: Json = False) -> None:
    """List what RUN_ID, of a model of `kind: auto`, has tried so far; the best is marked."""
    found = ask(directory, lambda trimtab: trimtab.run_trials(run_id))
    if as_json:
        print_json([plain(trial) for trial in found])
        return
    empty = (
        f"run {run_id} has tried nothing: its model's trainer.kind is not auto, or the search has not begun"
    )
    show([tried(trial) for trial in found], as_json=False, empty=empty)


def tried(trial: Trial) -> dict[str, Any]:
    """Return a trial as a row of a table."""
    parameters = plain(trial).get("parameters", {})
    return {
        "trial": f"{trial.number}{' *' if trial.best else ''}",
        "family": trial.family,
        trial.metric: f"{trial.value:.4g}" if trial.HasField("value") else None,
        "outcome": Trial.Outcome.Name(trial.outcome).lower(),
        "seconds": f"{trial.seconds:.1f}",
        "parameters": trial.error
        or ", ".join(f"{name} {_short(value)}" for name, value in sorted(parameters.items())),
    }


def _short(value: Any) -> str:
    if not isinstance(value, float):
        return str(value)
    return str(int(value)) if value.is_integer() else f"{value:.3g}"


@app.command()
def cancel(
    run_id: str,
    reason: Annotated[str, typer.Option(help="Why, for the ledger.")] = "",
    directory: Directory = HOME,
) -> None:
    """End RUN_ID, whether it waits or is at work; a run that has ended stays as it is."""
    ended = ask(directory, lambda trimtab: trimtab.cancel_run(run_id, reason=reason, actor=actor()))
    console.print(sentence(ended.event), highlight=False)


@app.command()
def reproduce(
    run_id: str,
    every: Annotated[bool, typer.Option("--all", help="Show what is the same, too.")] = False,
    directory: Directory = HOME,
    as_json: Json = False,
) -> None:
    """Make RUN_ID once more of what it was made of, in whichever trainer is free, and compare the two.

    No version comes of it. It ends with 0 if all that came out is the same, to the bit, and with 1 if not.
    """

    async def order(trimtab: Any) -> str:
        return str((await trimtab.reproduce(run_id, actor=actor())).event.run_id)

    found = follow(directory, order, as_json=as_json).reproduction
    if not as_json:
        show(reproduced(found, every=every), as_json=False)
        console.print(found.sentence, highlight=False)
    if not found.identical:
        raise typer.Exit(1)


def reproduced(found: Reproduction, *, every: bool) -> list[dict[str, Any]]:
    """Return what a run and its repetition have that is worth showing: what came out, and what differs of what went in."""
    return [
        {
            "what": each.what,
            "then": _digest(each.before),
            "now": _digest(each.again),
            "same": "✓" if each.same else "differs",
        }
        for each in found.compared
        if every or not each.same or (each.kind == each.OUTCOME) or each.what == "dataset"
    ]


def _digest(text: str) -> str:
    """Return a digest as people compare them; other text as it is."""
    return text[:12] if len(text) == 64 and set(text) <= set("0123456789abcdef") else text


@app.command()
def compare(
    runs: Annotated[list[str], typer.Argument(help="Two runs or more.")],
    output: Annotated[
        Path | None, typer.Option("-o", "--output", help="The file to write: .html, or .md with its plots.")
    ] = None,
    directory: Directory = HOME,
    as_json: Json = False,
) -> None:
    """Show what RUNS were made of and came to, side by side; in a file, with their plots."""
    ids = list(dict.fromkeys(runs))
    if len(ids) < 2:
        raise Rejected(f"{', '.join(ids)} is one run: name two or more, of `trimtab run list`")

    async def looked_up(trimtab: Trimtab) -> tuple[list[Run], dict[str, Any]]:
        found = [await trimtab.run(run_id) for run_id in ids]
        return found, await _evidence(trimtab, ids) if output else {}

    found, evidence = ask(directory, looked_up)
    rows = compared(*found, in_words=not as_json)
    files = page(found, evidence).write(output) if output else []
    if as_json or not output:
        show(rows, as_json=as_json)
        return
    for file in files:
        console.print(f"wrote {file}", markup=False, highlight=False, soft_wrap=True)


def compared(*runs: Run, in_words: bool = False) -> list[dict[str, Any]]:
    """Return each fact of any run with the values of all; of the software, only what differs."""
    facts = {run.event.run_id: _facts(run, in_words=in_words) for run in runs}
    rows: list[dict[str, Any]] = []
    for name in dict.fromkeys(name for each in facts.values() for name in each):
        values = {run_id: each.get(name) for run_id, each in facts.items()}
        first = next(iter(values.values()))
        rows.append({"what": name, **values, "same": all(value == first for value in values.values())})
    return [row for row in rows if not (row["same"] and row["what"].startswith("environment."))]


def page(runs: Sequence[Run], evidence: Mapping[str, Any]) -> Page:
    """Return a comparison as a page, with the plots of those runs that have evidence over one another."""
    rows = [row | {"same": "" if row["same"] else "differs"} for row in compared(*runs, in_words=True)]
    notes = [
        {
            "run": run.event.run_id,
            "at": iso(from_timestamp(note.at)),
            "by": note.by,
            "note": note.text,
        }
        for run in runs
        for note in run.notes
    ]
    without = [run.event.run_id for run in runs if run.event.run_id not in evidence]
    return Page(
        f"{len(runs)} runs of {', '.join(dict.fromkeys(run.event.model for run in runs))}",
        [
            Table(rows),
            Heading("Plots"),
            *([Text(f"There is no evidence of {', '.join(without)}.")] if without else []),
            *(Picture(each.name, each.svg, each.caption) for each in figures(evidence)),
            Heading("Notes"),
            Table(notes, empty="Nobody wrote a note on any of them."),
        ],
    )


async def _evidence(trimtab: Trimtab, ids: Sequence[str]) -> dict[str, Any]:
    """Return the evidence of those runs that have some."""
    found = {}
    for run_id in ids:
        with suppress(NotFound):
            found[run_id] = await trimtab.evidence(run_id)
    return found


def _written(note: Note) -> str:
    return f"{iso(from_timestamp(note.at))} {note.by}: {note.text}"


def _facts(run: Run, *, in_words: bool) -> Mapping[str, Any]:
    """Return what is known of a run; metrics as numbers, or in words with their intervals."""
    event, candidate = run.event, run.event.candidate
    made = plain(candidate)
    facts: dict[str, Any] = {
        "model": event.model,
        "trigger": event.trigger,
        "status": RunEvent.Status.Name(event.status).lower(),
        "as of": iso(from_timestamp(event.as_of)),
        "champion": candidate.champion_version or None,
        "generation": candidate.model_generation or None,
        "seed": candidate.seed,
        "features": len(candidate.features) + len(candidate.texts) or None,
        "rows": candidate.rows or None,
        "data from": made.get("trained_from"),
        "data to": made.get("trained_to"),
        "dataset": candidate.dataset_digest[:12] or None,
    }
    facts |= {f"table.{table.table}": table.version for table in candidate.tables}
    facts |= {f"parameter.{name}": value for name, value in made.get("parameters", {}).items()}
    facts |= {
        f"metric.{name}": told(value, candidate.intervals.get(name)) if in_words else value
        for name, value in sorted(candidate.metrics.items())
    }
    return facts | {f"environment.{name}": value for name, value in sorted(candidate.environment.items())}
