"""The `trimtab` command.

Each command reads well in a terminal, prints JSON with `--json`, and on failure ends
with exit 1 and one clear sentence on standard error.
"""

import sys
import traceback

import grpc
import typer
from aiokafka.errors import KafkaError
from trimtab_runtime.errors import TrimtabError
from trimtab_runtime.lifecycle import leaves
from trimtab_stack.errors import StackError

from trimtab.cli import (
    alerts,
    answers,
    arms,
    audit,
    backfill,
    backtest,
    checks,
    combining,
    datasets,
    deadletter,
    demo,
    exporting,
    health,
    ingest,
    init,
    labels,
    loops,
    managing,
    metrics,
    models,
    project,
    prove,
    register,
    report,
    runs,
    stack,
    streams,
    views,
)

app = typer.Typer(
    name="trimtab",
    help="Keeps machine-learning models right in production.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
)
stack.add_to(app)
demo.add_to(app)
init.add_to(app)
project.add_to(app)
answers.add_to(app)
prove.add_to(app)
backtest.add_to(app)
ingest.add_to(app)
backfill.add_to(app)
streams.add_to(app)
report.add_to(app)
metrics.add_to(app)
managing.add_to(app, models.app)
app.add_typer(models.app, name="model", help="Versions of a model, and what serves.")
app.add_typer(checks.app, name="check", help="What tools outside say of a version.")
app.add_typer(views.app, name="view", help="Feature views.")
app.add_typer(runs.app, name="run", help="Training runs.")
app.add_typer(deadletter.app, name="deadletter", help="Rows that were refused: why, and once more.")
app.add_typer(loops.app, name="loop", help="The loop ledger: what drifted, and what was made of it.")
app.add_typer(alerts.app, name="alert", help="What a person should look at, and silences.")
app.add_typer(labels.app, name="labels", help="Labels that people give: which would tell most.")
app.add_typer(datasets.app, name="dataset", help="Training sets: write them to files, compare them.")
app.add_typer(audit.app, name="audit", help="Who did what, and whether what was done was right.")
models.app.command()(register.register)
models.app.command()(combining.combine)
models.app.command()(exporting.export)
models.app.command()(health.health)
models.app.command()(arms.ab)
models.app.command()(arms.trial)
# What is asked most has a word of its own.
app.command("loops")(loops.list_)
app.command("versions")(models.versions)
app.command("approve")(models.approve)
app.command("reject")(models.reject)
app.command("reproduce")(runs.reproduce)

_EXPECTED = (TrimtabError, StackError, KafkaError, grpc.RpcError, OSError)


def main() -> None:
    """Run the command; the process ends with its exit code."""
    try:
        app()
    except KeyboardInterrupt:
        sys.exit(130)
    except Exception as error:  # the edge of the command
        sys.exit(_told(error))


def _told(error: Exception) -> str:
    """Return what the user is told of a failure; one that nobody foresaw is shown whole before."""
    faults = leaves(error)
    if not all(isinstance(fault, _EXPECTED) for fault in faults):
        traceback.print_exception(error)
    sentences = dict.fromkeys(
        str(fault) if isinstance(fault, TrimtabError | StackError) else repr(fault) for fault in faults
    )
    return "\n".join([f"trimtab: {'; '.join(sentences)}", *getattr(error, "__notes__", ())])
