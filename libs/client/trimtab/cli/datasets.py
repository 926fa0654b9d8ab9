"""`trimtab dataset export | diff | tag | untag`."""

from pathlib import Path
from typing import Annotated, Any

import typer
from trimtab_contracts.registry.v1.registry_pb2 import DatasetTag
from trimtab_runtime.errors import Rejected

from trimtab.cli.session import (
    HOME,
    Directory,
    Json,
    actor,
    ask,
    console,
    moment,
    plain,
    print_json,
    show,
)
from trimtab.client import Trimtab
from trimtab.datasets import Dataset, TrainingSet, compared, versions

app = typer.Typer(no_args_is_help=True)


_Dataset = Annotated[str, typer.Argument(help="A tag, or the run that was trained on it.")]
_Tag = Annotated[str, typer.Argument(help="A name such as gold or 2020-reviewed.")]


@app.command()
def export(
    what: Annotated[
        str,
        typer.Argument(metavar="MODEL|DATASET", help="A model, with --start and --end; or a tag or a run."),
    ],
    file: Annotated[Path, typer.Argument(help="The Parquet file to write.")],
    start: Annotated[str, typer.Option(help="The rows' event times begin here (RFC 3339).")] = "",
    end: Annotated[str, typer.Option(help="They end before here.")] = "",
    as_of: Annotated[str, typer.Option(help="See nothing that arrived later; everything by default.")] = "",
    directory: Directory = HOME,
    as_json: Json = False,
) -> None:
    """Write the labelled rows of a model, or of a dataset, to FILE, each as it would have been answered then."""
    if bool(start) != bool(end) or (as_of and not start):
        raise Rejected(
            "the times are of a model's rows: give --start and --end, or neither of them for a dataset"
        )
    recorded: Dataset | None = None
    if start:
        start_ms, end_ms = moment("--start", start), moment("--end", end)
        as_of_ms = moment("--as-of", as_of) if as_of else None
        made = ask(directory, lambda it: it.training_set(what, start_ms, end_ms, as_of_ms=as_of_ms))
    else:
        recorded, made = ask(directory, lambda it: _remade(it, what))
    made.write(file)
    if as_json:
        print_json(_described(recorded, made) | {"file": str(file)})
        return
    if recorded is not None:
        _warn(recorded, made)
    other = made.rows_of_other_classes
    strange = f", and {other} one that is none of the model's classes" if other else ""
    unlabelled = made.rows_without_label - other
    console.print(
        f"{made.rows} rows are in {file}; {unlabelled} more have no label yet{strange} and were left out.\n"
        f"Made from {versions(made.tables)}; digest {made.digest[:12]}"
    )


@app.command()
def diff(a: _Dataset, b: _Dataset, directory: Directory = HOME, as_json: Json = False) -> None:
    """Show two datasets side by side, made once more from the archive."""

    async def both(trimtab: Trimtab) -> list[tuple[Dataset, TrainingSet]]:
        return [await _remade(trimtab, name) for name in (a, b)]

    pairs = ask(directory, both)
    columns = compared(*(made.arrow() for _, made in pairs))
    left, right = (_described(*pair) for pair in pairs)
    if as_json:
        print_json({"left": left, "right": right, "columns": columns})
        return
    for pair in pairs:
        _warn(*pair)
    sides = zip(left.items(), right.values(), strict=True)
    show([{"": name, a: one, b: other} for (name, one), other in sides], as_json=False)
    show([{"column": each["column"]} | _beside(each) for each in columns], as_json=False)


@app.command()
def tag(
    dataset: _Dataset,
    tag: _Tag,
    comment: Annotated[str, typer.Option(help="Why, for the audit log.")] = "",
    directory: Directory = HOME,
    as_json: Json = False,
) -> None:
    """Name DATASET by TAG; a tag that names another is moved."""
    said = ask(directory, lambda it: it.tag_dataset(dataset, tag, actor=actor(), comment=comment))
    if as_json:
        print_json(plain(said))
        return
    moved = f", and no longer {_named(said.before)}" if said.HasField("before") else ""
    console.print(f"{tag} names {_named(said.tag)}{moved}", soft_wrap=True)


@app.command()
def untag(
    tag: _Tag,
    comment: Annotated[str, typer.Option(help="Why, for the audit log.")] = "",
    directory: Directory = HOME,
    as_json: Json = False,
) -> None:
    """Remove TAG; the dataset stays."""
    found = ask(directory, lambda it: it.untag_dataset(tag, actor=actor(), comment=comment))
    if as_json:
        print_json(plain(found))
        return
    console.print(f"{tag} is no tag any more; it named {_named(found)}", soft_wrap=True)


def _named(tag: DatasetTag) -> str:
    return f"the dataset of {tag.run_id} ({tag.model}, digest {tag.dataset_digest[:12]})"


async def _remade(trimtab: Trimtab, name: str) -> tuple[Dataset, TrainingSet]:
    dataset = await trimtab.dataset(name)
    return dataset, await trimtab.remade(dataset)


def _described(recorded: Dataset | None, made: TrainingSet) -> dict[str, Any]:
    """Return what names a set that was made, and the dataset that it is to be, if it is to be one."""
    named = {"run": recorded.run, "recorded digest": recorded.digest} if recorded else {}
    return named | made.described()


def _warn(recorded: Dataset, made: TrainingSet) -> None:
    if recorded.digest != made.digest:
        console.print(
            f"run {recorded.run} was trained on other rows ({recorded.digest[:12]}) than its spec and the archive give "
            f"now ({made.digest[:12]})",
            style="yellow",
        )


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
