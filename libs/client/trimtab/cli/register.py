"""`trimtab model register`."""

from pathlib import Path
from typing import Annotated

import typer

from trimtab import registering
from trimtab.cli.session import HOME, Directory, Json, actor, ask, moment
from trimtab.cli.watching import Wait, ordered


def register(
    model: str,
    file: Annotated[
        str,
        typer.Argument(
            help="An ONNX file, or mlflow:/models/NAME/VERSION, mlflow:/models/NAME@ALIAS, mlflow:/runs/RUN/PATH."
        ),
    ],
    reference: Annotated[
        Path | None,
        typer.Option(
            help="Parquet: a column for each feature, and label (a class by its name); what is usual for it is taken from there."
        ),
    ] = None,
    trained_to: Annotated[
        str,
        typer.Option(
            help="Event time of the newest row it was trained on (RFC 3339): it is judged by newer rows alone."
        ),
    ] = "",
    comment: Annotated[str, typer.Option(help="Why, for the ledger.")] = "",
    tracking_uri: Annotated[
        str, typer.Option(envvar="MLFLOW_TRACKING_URI", help="Where the MLflow server is.")
    ] = "",
    wait: Wait = True,
    directory: Directory = HOME,
    as_json: Json = False,
) -> None:
    """Bring your own model: FILE becomes a version of MODEL through the same gates and rollout as a trained one.

    It takes `features`, float32 of rows by features in the order of the spec (or an input a feature, called as it is), and `texts`,
    strings, likewise. Its first output is a number a row: the value, or the probability of the positive class; or its last
    one is the probabilities of a multiclass task's classes.
    """
    sent = registering.model(file, tracking_uri)
    usual = registering.read(reference) if reference else None
    trained_to_ms = moment("--trained-to", trained_to) if trained_to else None
    command = ask(
        directory,
        lambda trimtab: trimtab.register(
            model, sent, actor=actor(), comment=comment, reference=usual, trained_to_ms=trained_to_ms
        ),
    )
    ordered(directory, model, command, wait=wait, as_json=as_json)
