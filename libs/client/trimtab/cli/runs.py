"""`trimtab run list | show`."""

from typing import Annotated

import typer
from trimtab_contracts.training.v1.training_pb2 import RunEvent
from trimtab_runtime.clock import from_timestamp, iso
from trimtab_runtime.errors import NotFound

from trimtab.cli.session import HOME, Directory, Json, ask, plain, print_json, show

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
            "error": run.event.error,
        }
        for run in found
    ]
    show(rows, as_json=False, empty="there is no run: order one with `trimtab model train MODEL`")


@app.command("show")
def show_(run_id: str, directory: Directory = HOME) -> None:
    """Show all that is recorded of a run, as JSON."""
    found = ask(directory, lambda trimtab: trimtab.runs())
    for run in found:
        if run.event.run_id == run_id:
            print_json(plain(run))
            return
    raise NotFound(f"there is no run {run_id!r}: look at `trimtab run list`")
