"""`trimtab labels wanted`."""

from typing import Annotated, Any

import typer
from trimtab_contracts.monitoring.v1.monitoring_pb2 import WantedLabel
from trimtab_runtime.clock import from_timestamp, iso

from trimtab.cli.session import HOME, Directory, Json, ask, plain, print_json, show

app = typer.Typer(no_args_is_help=True)


@app.callback()
def labels() -> None:
    """What came true, where people have to say it."""


@app.command()
def wanted(
    model: str,
    limit: Annotated[int, typer.Option(min=1, max=1000, help="So many at most, the newest.")] = 20,
    directory: Directory = HOME,
    as_json: Json = False,
) -> None:
    """List the predictions of MODEL whose label would tell most and has not come yet, newest first."""
    found = ask(directory, lambda trimtab: trimtab.wanted_labels(model, limit=limit))
    if as_json:
        print_json([plain(each) for each in found])
        return
    empty = f"no label of {model} is wanted: its spec says how many are, `monitoring: {{labels_wanted: 20}}`, a window"
    show([_row(each) for each in found], as_json=False, empty=empty)


def _row(asked: WantedLabel) -> dict[str, Any]:
    return {
        "key": asked.key,
        "at": iso(from_timestamp(asked.at))[:16],
        "version": asked.version,
        "prediction": asked.prediction,
        "expected loss": asked.expected_loss if asked.HasField("expected_loss") else None,
        "chance": asked.chance,
        "of rows": asked.rows,
    }
