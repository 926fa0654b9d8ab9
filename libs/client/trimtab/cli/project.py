"""`trimtab apply | plan | get`."""

import asyncio
import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer
import yaml
from google.protobuf import json_format
from trimtab_core import evolution, specs
from trimtab_runtime.clock import from_timestamp, iso
from trimtab_runtime.errors import Rejected, TrimtabError

from trimtab.cli import backtest as histories
from trimtab.cli import planned, tables
from trimtab.cli.lineage import Lineage
from trimtab.cli.session import (
    HOME,
    Directory,
    Json,
    actor,
    ask,
    console,
    environ,
    plain,
    print_json,
    show,
    wanted,
)
from trimtab.client import Trimtab
from trimtab.managing import document, place
from trimtab.project import BadProject, Fault, Project, read

KINDS = {
    "sources": "Source",
    "featureviews": "FeatureView",
    "tables": "Table",
    "models": "Model",
    "modeltests": "ModelTest",
    "all": "",
}
FORMS = ("", "wide")


def add_to(app: typer.Typer) -> None:
    """Add the commands to `app`."""
    for command in (apply, plan, get):
        app.command()(command)


def apply(path: Path, directory: Directory = HOME, as_json: Json = False) -> None:
    """Make the specs in PATH (a YAML file, or a folder of them) the wanted state."""
    project = _read(path, directory)
    try:
        changes = ask(directory, lambda it: it.apply(project.resources, actor=actor(), files=project.files))
    except Rejected as refusal:
        if faults := project.placed(refusal):
            raise BadProject(faults) from refusal
        raise
    rows = [{"kind": c.kind, "name": c.name, "action": c.action, "generation": c.generation} for c in changes]
    show(rows, as_json=as_json)


def plan(
    path: Path,
    markdown: Annotated[
        Path | None, typer.Option(help="Write it there too, as a report for a pull request's comment.")
    ] = None,
    backtest: Annotated[
        bool,
        typer.Option("--backtest", help="Say too what its models would have done on the history in --data."),
    ] = False,
    data: histories.Data = [],  # noqa: B006 - typer's form of a list that may be given
    from_: histories.From = "",
    step: histories.Step = "",
    directory: Directory = HOME,
    as_json: Json = False,
) -> None:
    """Say what applying PATH would change, key by key, and what it would break; nothing is changed.

    Fails, with every fault and its place, if it cannot be applied.
    """
    if backtest != bool(data):
        raise Rejected(
            "--backtest lives through history: name a file with --data"
            if backtest
            else "--data is for --backtest: say that too"
        )
    try:
        project = _read(path, directory)
    except BadProject as error:
        planned.write(markdown, [], error.places)
        raise
    held, faults = ask(directory, lambda it: _looked_up(it, project))
    changes = [_change(held.get(resource.key), resource) for resource in project.resources]
    warnings = _gaps(project)
    planned.write(markdown, changes, faults)
    lived: dict[str, Any] = {}
    if backtest and not faults:
        lived, report = histories.planned(held, project.resources, data, from_, step)
        planned.write(markdown, changes, faults, report)
    if as_json:
        told = {"changes": changes, "faults": [asdict(fault) for fault in faults], "warnings": warnings}
        print_json(
            told | ({"backtest": {name: each.document() for name, each in lived.items()}} if backtest else {})
        )
    else:
        show([row for change in changes for row in _lines(change)], as_json=False)
        for said in warnings:
            console.print(f"warning: {said}", style="yellow", markup=False, highlight=False, soft_wrap=True)
        for each in lived.values():
            histories.tell_compared(each)
        if backtest and not faults and not lived:
            console.print(
                "nothing changes that a model's decisions follow from, so there is nothing to backtest"
            )
    if faults:
        raise BadProject(faults)


def _gaps(project: Project) -> list[str]:
    """Return what the cards of the project's models lack, a sentence a model."""
    found = []
    for model in project.resources:
        if isinstance(model, specs.Model) and (missing := specs.gaps(model)):
            keys = ", ".join(".".join(map(str, place)) for place, _ in missing)
            found.append(
                f"{model.key}: its model card will lack {keys}: add them, for those who are to trust it"
            )
    return found


def _read(path: Path, directory: Path) -> Project:
    project = read(path)
    if project.faults:
        raise BadProject([*project.faults, *_misfits(project, directory)])
    return project


async def _looked_up(trimtab: Trimtab, project: Project) -> tuple[dict[str, Any], Sequence[Fault]]:
    """Return the documents that are applied, by kind/name, and why the project's cannot be."""
    held = {
        f"{each.kind}/{each.name}": json_format.MessageToDict(each.document)
        for each in await trimtab.resources()
    }
    try:
        await trimtab.apply(project.resources, actor=actor(), validate_only=True)
    except Rejected as refusal:
        if faults := project.placed(refusal):
            return held, faults
        raise
    return held, ()


def _change(held: dict[str, Any] | None, resource: specs.Resource) -> dict[str, Any]:
    found: list[dict[str, Any]] = []
    if held is not None:
        found = [
            {"key": ".".join(map(str, place)), "before": before, "after": after}
            for place, before, after in evolution.differences(held, specs.to_document(resource))
        ]
    action = "created" if held is None else "changed" if found else "unchanged"
    return {"kind": resource.kind, "name": resource.name, "action": action, "differences": found}


def _lines(change: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the lines of a table: one for each changed key, and one at the least."""
    named = {"kind": change["kind"], "name": change["name"], "action": change["action"]}
    return [
        {**named, "key": each["key"], "before": _shown(each["before"]), "after": _shown(each["after"])}
        for each in change["differences"] or [{"key": "", "before": None, "after": None}]
    ]


def _shown(value: Any) -> str:
    return "" if value is None else json.dumps(value)


def _misfits(project: Project, directory: Path) -> list[Fault]:
    """Return what else the registry finds wrong with the readable resources of a faulty project, if one runs."""
    if project.unreadable is None:
        return []  # a reference may be to what cannot be read
    documents = [*project.resources, *project.unreadable]
    try:
        ask(directory, lambda it: it.apply(documents, actor=actor(), validate_only=True))
    except Rejected as refusal:
        return project.placed(refusal)
    except TrimtabError:
        return []
    return []


def get(
    what: str = typer.Argument("all", help=", ".join([*KINDS, "datasets", "or KIND/NAME"])),
    output: Annotated[
        str, typer.Option("-o", "--output", help="wide: with what is in it, and who uses it.")
    ] = "",
    generation: Annotated[int, typer.Option(min=0, help="Of KIND/NAME: not the present one.")] = 0,
    directory: Directory = HOME,
    as_json: Json = False,
) -> None:
    """List what has been applied, or the datasets that runs were trained on; KIND/NAME prints one spec."""
    if "/" in what:
        kind, name = place(what)
        found = ask(directory, lambda trimtab: trimtab.resource(kind, name, generation))
        if as_json:
            print_json(plain(found))
        else:
            typer.echo(yaml.safe_dump(document(found), sort_keys=False, allow_unicode=True), nl=False)
        return
    if generation:
        raise Rejected(f"--generation is of one spec, and {what!r} is many: write KIND/NAME")
    if what not in (*KINDS, "datasets"):
        raise Rejected(f"{what!r} is nothing that can be got: write one of {', '.join([*KINDS, 'datasets'])}")
    if output not in FORMS or (output and what in ("all", "modeltests", "datasets")):
        raise Rejected(
            f"{what} has no form {output!r}: write wide, with sources, featureviews, tables or models"
        )
    if what == "datasets":
        used = ask(directory, lambda trimtab: trimtab.datasets())
        show(
            [each.row() for each in used],
            as_json=as_json,
            empty="no run has been trained yet: see `trimtab run list`",
        )
        return
    if output:
        everything = ask(directory, lambda trimtab: trimtab.resources())
        rows = Lineage(everything).rows(KINDS[what])
        if what == "tables":
            [servers] = wanted(environ(directory), "TRIMTAB_KAFKA_SERVERS")
            rows = asyncio.run(tables.with_loads(servers, rows))
        show(rows, as_json=as_json, empty="nothing has been applied: see `trimtab apply`")
        return
    listed = ask(directory, lambda trimtab: trimtab.resources(KINDS[what]))
    if as_json:
        print_json([plain(resource) for resource in listed])
        return
    rows = [
        {
            "kind": resource.kind,
            "name": resource.name,
            "generation": resource.generation,
            "applied": iso(from_timestamp(resource.applied_at)),
            "by": resource.applied_by,
        }
        for resource in listed
    ]
    show(rows, as_json=False, empty="nothing has been applied: see `trimtab apply`")
