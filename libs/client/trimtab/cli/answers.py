"""`trimtab predict | explain`."""

import json
from pathlib import Path
from typing import Annotated, Any

import typer
from trimtab_contracts.serving.v1.serving_pb2 import ExplainResponse
from trimtab_runtime.errors import Rejected

from trimtab.cli.batch import predict_file
from trimtab.cli.ingest import Encoding, Format, Map, Null, Patience, TimeFormat, patience_s, reading
from trimtab.cli.session import HOME, Directory, Json, ask, console, plain, print_json, show
from trimtab.files import File

Row = Annotated[str, typer.Argument(help="A row of the model's source, as a JSON object.")]
Version = Annotated[int, typer.Option(help="One of the warm versions; the champion, if not given.")]


def add_to(app: typer.Typer) -> None:
    """Add the commands to `app`."""
    for command in (predict, explain):
        app.command()(command)


def predict(
    model: str,
    rows: Annotated[
        str,
        typer.Argument(
            help="A row of the model's source, as a JSON object; or a file of them: CSV, JSONL or Parquet, the first two "
            "also .gz."
        ),
    ],
    output: Annotated[
        Path | None,
        typer.Option("-o", "--output", help="Where the answers to a file go: .csv, .jsonl or .parquet."),
    ] = None,
    version: Version = 0,
    format: Format = "",
    map: Map = [],  # noqa: B006 - typer's form of a list that may be given
    time_format: TimeFormat = [],  # noqa: B006
    null: Null = [],  # noqa: B006
    encoding: Encoding = "utf-8",
    patience: Patience = "5m",
    directory: Directory = HOME,
    as_json: Json = False,
) -> None:
    """Ask MODEL for a prediction, or for those of all rows of a file, each as of its event time.

    After Ctrl-C, a crash or an outage, the same command goes on with a file where it ended, with the same version. A row
    that cannot be read has its reason among the answers, and the command ends with 1.
    """
    if not rows.lstrip().startswith("{"):
        if output is None:
            raise Rejected(
                f"{rows!r} is taken for a file, for it is no JSON object: say -o FILE for its answers"
            )
        predict_file(
            directory,
            model,
            File(rows, format, encoding=encoding),
            output,
            version=version,
            reading=reading(map, time_format, null, ""),
            patience_s=patience_s(patience),
            as_json=as_json,
        )
        return
    if output is not None:
        raise Rejected("--output is for the answers to a file: leave it out, or name a file instead of a row")
    fields = _fields(rows)
    answer = ask(directory, lambda trimtab: trimtab.predict(model, [fields], version=version))
    if as_json:
        print_json(plain(answer))
        return
    said: dict[str, Any] = {"prediction": answer.classes[0] if answer.classes else answer.predictions[0]}
    ranked = sorted(zip(answer.probabilities, answer.class_names, strict=True), reverse=True)
    if ranked:
        said["chances"] = ", ".join(f"{name} {chance:.1%}" for chance, name in ranked)
    show([{**said, "version": answer.versions[0], "id": answer.ids[0]}], as_json=False)


def explain(
    model: str,
    row: Row,
    version: Version = 0,
    samples: Annotated[
        int, typer.Option(help="More of them make the +- smaller; 0 leaves it to serving.")
    ] = 0,
    directory: Directory = HOME,
    as_json: Json = False,
) -> None:
    """Say what each feature contributes to MODEL's prediction for a row, the largest first."""
    fields = _fields(row)
    answer = ask(
        directory, lambda trimtab: trimtab.explain(model, [fields], version=version, samples=samples)
    )
    if as_json:
        print_json(plain(answer))
        return
    found = answer.explanations[0]
    what = (
        f"{found.class_name} with {found.prediction:.1%}" if found.class_name else f"{found.prediction:.4g}"
    )
    console.print(
        f"Version {answer.version} of {model} predicts {what}. "
        f"Its mean prediction of that is {found.base:.4g}; the features add the rest:"
    )
    show(_contributions(answer), as_json=False)


def _contributions(answer: ExplainResponse) -> list[dict[str, Any]]:
    found = answer.explanations[0]
    values: list[Any] = [*found.values, *found.texts]
    columns = zip(answer.features, values, found.contributions, found.standard_errors, strict=True)
    return [
        {
            "feature": feature,
            "value": None if value != value else value,
            "contribution": f"{contribution:+.4g}",
            "+-": f"{error:.2g}",
        }
        for feature, value, contribution, error in sorted(columns, key=lambda row: -abs(row[2]))
    ]


def _fields(row: str) -> Any:
    try:
        return json.loads(row)
    except json.JSONDecodeError as error:
        raise Rejected(
            f"the row is no JSON ({error}): write an object such as '{{\"distance\": 2.5}}'"
        ) from error
