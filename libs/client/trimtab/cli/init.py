"""`trimtab init`."""

import shlex
from itertools import islice
from pathlib import Path
from typing import Annotated, Any

import typer
from trimtab_core.contract import compile_contract
from trimtab_core.specs import Source
from trimtab_runtime.errors import Rejected

from trimtab import infer, scaffold
from trimtab.cli.ingest import at_event_time, judged
from trimtab.cli.session import console
from trimtab.files import STDIN, File
from trimtab.project import load
from trimtab.typed import Typing

_EXAMPLE = Path(__file__).parent.parent / "demo" / "project"
_LOOKED_AT = 100_000


def add_to(app: typer.Typer) -> None:
    """Add the command to `app`."""
    app.command()(init)


def init(
    directory: Annotated[
        Path, typer.Argument(help="Where to; by default a folder called like the file.", show_default=False)
    ] = Path(),
    from_: Annotated[str, typer.Option("--from", help="A CSV, JSONL or Parquet file of your own.")] = "",
    label: Annotated[str, typer.Option(help="The column to predict.")] = "",
    key: Annotated[str, typer.Option(help="The column that tells rows apart.")] = "",
    time: Annotated[str, typer.Option(help="The column that says when a row was true.")] = "",
    name: Annotated[str, typer.Option(help="What to call the source.")] = "",
    format: Annotated[
        str, typer.Option(help="csv, jsonl or parquet, where the file's name does not say it.")
    ] = "",
    encoding: Annotated[str, typer.Option(help="Of a CSV file.")] = "utf-8",
) -> None:
    """Write a project for a table of your own, or without --from a small example."""
    if not from_:
        for option, value in (("--label", label), ("--key", key), ("--time", time), ("--name", name)):
            if value:
                raise Rejected(f"{option} {value!r} is about a file: say which with --from")
        _example(directory if directory != Path() else Path("trimtab-example"))
        return
    if from_ == STDIN:
        raise Rejected("--from '-' cannot be read twice: write it to a file first")
    file = File(from_, format, encoding=encoding)
    stem = Path(from_).name.partition(".")[0]
    wishes = scaffold.Wishes(scaffold.resource_name(name or stem), label, key, time)
    rows = [row.fields for row in islice(file.rows(), _LOOKED_AT) if row.fields is not None]
    if not rows:
        raise Rejected(f"{from_} has no row to learn from: name a file that has")
    with console.status(f"looking at {len(rows):,} rows of {from_}"):
        plan = scaffold.plan(infer.columns(rows, decimal_comma=file.decimal_comma), wishes)
    where = directory if directory != Path() else Path(wishes.name)
    _write(where, scaffold.files(plan, file=from_, sampled=len(rows)))
    _tell(where, file, plan)


def _write(where: Path, files: dict[str, str]) -> None:
    if taken := [name for name in files if (where / name).exists()]:
        raise Rejected(f"{where / taken[0]} is there already: name another folder, or remove it")
    where.mkdir(parents=True, exist_ok=True)
    for name, text in files.items():
        (where / name).write_text(text, encoding="utf-8")


def _example(where: Path) -> None:
    _write(where, {path.name: path.read_text(encoding="utf-8") for path in sorted(_EXAMPLE.glob("*.yaml"))})
    _say(
        f"wrote {where}: two sources, a feature view and a model, those of the taxi trips of `trimtab demo`",
        "next:",
        "  trimtab up",
        f"  trimtab apply {shlex.quote(str(where))}",
        "for a table of your own: trimtab init --from FILE",
    )


def _tell(where: Path, file: File, plan: scaffold.Plan) -> None:
    """Say what was written, what the contract makes of the file, and what to do next."""
    source = next(each for each in load(where).resources if isinstance(each, Source))
    found = check(file, source, plan)
    place = shlex.quote(str(where))
    refused = (
        f"{found['refused']:,} would be refused: {found['why']}"
        if found["refused"]
        else "none would be refused"
    )
    _say(
        f"wrote {where}: source.yaml, features.yaml, model.yaml",
        f"  key         {plan.key.field if plan.key else 'row_id'}: {plan.why['key']}",
        f"  event time  {plan.time.field}: {plan.why['time']}",
        f"  label       {plan.label.field}: {plan.why['label']}",
        f"  entity      {plan.entity.field if plan.entity else 'none'}: {plan.why['entity']}",
        f"of the first {found['rows']:,} rows {refused}",
        "next, after a look at the comments in the files:",
        "  trimtab up",
        f"  trimtab apply {place}",
        "  " + shlex.join(["trimtab", "ingest", plan.name, file.path, *scaffold.ingest_options(plan)]),
        f"  trimtab model train {scaffold.model_name(plan)}",
    )


def check(file: File, source: Source, plan: scaffold.Plan) -> dict[str, Any]:
    """Return what the contract makes of the file's first rows, read as the next step will."""
    reading = scaffold.reading(plan, decimal_comma=file.decimal_comma)
    typing = Typing(source.spec, reading)
    return judged(file, typing, compile_contract(source.spec), at_event_time, limit=_LOOKED_AT)


def _say(*lines: str) -> None:
    console.print("\n".join(lines), soft_wrap=True, highlight=False, markup=False)
