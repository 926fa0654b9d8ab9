"""The `trimtab` command.

Each command reads well in a terminal, prints JSON with `--json`, and on failure ends
with exit 1 and one clear sentence on standard error.
"""

import sys

import typer
from trimtab_runtime.errors import TrimtabError
from trimtab_stack.errors import StackError

from trimtab.cli import demo, loops, models, project, runs, stack, streams

app = typer.Typer(
    name="trimtab",
    help="Keeps machine-learning models right in production.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
)
stack.add_to(app)
demo.add_to(app)
project.add_to(app)
streams.add_to(app)
app.add_typer(models.app, name="model", help="Versions of a model, and what serves.")
app.add_typer(runs.app, name="run", help="Training runs.")
app.add_typer(loops.app, name="loop", help="The loop ledger: what drifted, and what was made of it.")


def main() -> None:
    """Run the command; the process ends with its exit code."""
    try:
        app()
    except (TrimtabError, StackError) as error:
        sys.exit(f"trimtab: {error}")
    except KeyboardInterrupt:
        sys.exit(130)
