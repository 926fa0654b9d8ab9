"""`trimtab run list | show | watch | logs | cancel | compare`."""

from collections.abc import Mapping
from typing import Annotated, Any

import typer
from trimtab_contracts.training.v1.training_pb2 import Run, RunEvent
from trimtab_runtime.clock import from_timestamp, iso

from trimtab.cli.session import HOME, Directory, Json, actor, ask, console, plain, print_json, show
from trimtab.cli.watching import sentence
from trimtab.cli.watching import watch as follow

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
def show_(run_id: str, directory: Directory = HOME) -> None:
    """Show all that is recorded of a run, as JSON."""
    print_json(plain(ask(directory, lambda trimtab: trimtab.run(run_id))))


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
def cancel(
    run_id: str,
    reason: Annotated[str, typer.Option(help="Why, for the ledger.")] = "",
    directory: Directory = HOME,
) -> None:
    """End RUN_ID, whether it waits or is at work; a run that has ended stays as it is."""
    ended = ask(directory, lambda trimtab: trimtab.cancel_run(run_id, reason=reason, actor=actor()))
    console.print(sentence(ended.event), highlight=False)


@app.command()
def compare(first: str, second: str, directory: Directory = HOME, as_json: Json = False) -> None:
    """Show what two runs were made of and came to, side by side."""

    async def both(trimtab: Any) -> tuple[Run, Run]:
        return await trimtab.run(first), await trimtab.run(second)

    show(compared(*ask(directory, both)), as_json=as_json)


def compared(first: Run, second: Run) -> list[dict[str, Any]]:
    """Return each fact of either run with both values; of the software, only what differs."""
    left, right = _facts(first), _facts(second)
    rows: list[dict[str, Any]] = [
        {
            "what": name,
            first.event.run_id: left.get(name),
            second.event.run_id: right.get(name),
            "same": left.get(name) == right.get(name),
        }
        for name in dict.fromkeys([*left, *right])
    ]
    return [row for row in rows if not (row["same"] and row["what"].startswith("environment."))]


def _facts(run: Run) -> Mapping[str, Any]:
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
    facts |= {f"metric.{name}": value for name, value in sorted(candidate.metrics.items())}
    return facts | {f"environment.{name}": value for name, value in sorted(candidate.environment.items())}
