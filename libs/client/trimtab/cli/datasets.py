"""`trimtab dataset export | diff`."""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer
from trimtab_contracts.training.v1.training_pb2 import Run
from trimtab_core.specs import Model, parse
from trimtab_runtime.clock import from_timestamp, iso
from trimtab_runtime.errors import NotFound

from trimtab.cli.session import (
    HOME,
    Directory,
    Json,
    ask,
    console,
    moment,
    plain,
    print_json,
    show,
)
from trimtab.client import Trimtab
from trimtab.datasets import TrainingSet, compared, versions

app = typer.Typer(no_args_is_help=True)


@app.command()
def export(
    model: str,
    file: Annotated[Path, typer.Argument(help="The Parquet file to write.")],
    start: Annotated[str, typer.Option(help="The rows' event times begin here (RFC 3339).")],
    end: Annotated[str, typer.Option(help="They end before here.")],
    as_of: Annotated[str, typer.Option(help="See nothing that arrived later; everything by default.")] = "",
    directory: Directory = HOME,
    as_json: Json = False,
) -> None:
    """Write the labelled rows of MODEL to FILE, each as it would have been answered then."""
    start_ms, end_ms = moment("--start", start), moment("--end", end)
    as_of_ms = moment("--as-of", as_of) if as_of else None
    made = ask(directory, lambda trimtab: trimtab.training_set(model, start_ms, end_ms, as_of_ms=as_of_ms))
    made.write(file)
    if as_json:
        print_json(made.described() | {"file": str(file)})
        return
    console.print(
        f"{made.rows} rows are in {file}; {made.rows_without_label} more have no label yet and were left out.\n"
        f"Made from {versions(made.tables)}; digest {made.digest[:12]}"
    )


@app.command()
def diff(run_a: str, run_b: str, directory: Directory = HOME, as_json: Json = False) -> None:
    """Show side by side what two runs were trained on, made once more from the archive."""

    async def both(trimtab: Trimtab) -> tuple[TrainingSet, TrainingSet]:
        return await _again(trimtab, run_a), await _again(trimtab, run_b)

    left, right = ask(directory, both)
    columns = compared(left.arrow(), right.arrow())
    if as_json:
        print_json({"left": left.described(), "right": right.described(), "columns": columns})
        return
    show(
        [
            {"": name, run_a: one, run_b: other}
            for (name, one), other in zip(left.described().items(), right.described().values(), strict=True)
        ],
        as_json=False,
    )
    show([{"column": each["column"]} | _beside(each) for each in columns], as_json=False)


def _beside(column: dict[str, Any]) -> dict[str, Any]:
    pairs = {
        what: (column[f"left {what}"], column[f"right {what}"]) for what in ("type", "mean", "std", "nulls")
    }
    return {
        what: _text(one) if one == other else f"{_text(one)} | {_text(other)}"
        for what, (one, other) in pairs.items()
    }


def _text(value: Any) -> str:
    if value is None:
        return "-"
    return f"{value:.4g}" if isinstance(value, float) else str(value)


async def _again(trimtab: Trimtab, run_id: str) -> TrainingSet:
    """Return what a run was trained on, by the model's spec as it is now."""
    runs = [run for run in await trimtab.runs() if run.event.run_id == run_id]
    if not runs:
        raise NotFound(f"there is no run {run_id!r}: look at `trimtab run list`")
    event = runs[0].event
    specs = [each for each in await trimtab.resources("Model") if each.name == event.model]
    if not specs:
        raise NotFound(f"model {event.model!r} of run {run_id!r} is not there any more: apply its spec again")
    model = parse("Model", plain(specs[0].document))
    assert isinstance(model, Model)
    end_ms = from_timestamp(event.as_of)
    made = await trimtab.training_set(
        event.model, end_ms - model.spec.trainer.window, end_ms, as_of_ms=end_ms
    )
    if event.candidate.dataset_digest not in ("", made.digest):
        console.print(
            f"run {run_id} was trained on other rows ({event.candidate.dataset_digest[:12]}) than its spec and the "
            f"archive give now ({made.digest[:12]})",
            style="yellow",
        )
    return made


def used(runs: Sequence[Run]) -> list[dict[str, Any]]:
    """Return the datasets that runs were trained on, as `trimtab get datasets` shows them."""
    return [
        {
            "model": run.event.model,
            "run": run.event.run_id,
            "rows": run.event.candidate.rows,
            "from": iso(from_timestamp(run.event.candidate.trained_from)),
            "to": iso(from_timestamp(run.event.candidate.trained_to)),
            "tables": versions({table.table: table.version for table in run.event.candidate.tables}),
            "digest": run.event.candidate.dataset_digest,
        }
        for run in runs
        if run.event.candidate.dataset_digest
    ]
