"""`trimtab apply | get | predict`."""

import json
from pathlib import Path
from typing import Annotated

import typer
from trimtab_runtime.clock import from_timestamp, iso
from trimtab_runtime.errors import Rejected, TrimtabError

from trimtab.cli import datasets
from trimtab.cli.lineage import Lineage
from trimtab.cli.session import HOME, Directory, Json, actor, ask, plain, print_json, show
from trimtab.project import BadProject, Fault, Project, read

KINDS = {"sources": "Source", "featureviews": "FeatureView", "models": "Model", "all": ""}
FORMS = ("", "wide")


def add_to(app: typer.Typer) -> None:
    """Add the commands to `app`."""
    for command in (apply, get, predict):
        app.command()(command)


def apply(
    path: Path,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what it would change.")] = False,
    directory: Directory = HOME,
    as_json: Json = False,
) -> None:
    """Make the specs in PATH (a YAML file, or a folder of them) the wanted state."""
    project = read(path)
    if project.faults:
        raise BadProject([*project.faults, *_misfits(project, directory)])
    try:
        changes = ask(directory, lambda it: it.apply(project.resources, actor=actor(), validate_only=dry_run))
    except Rejected as refusal:
        if faults := project.placed(refusal):
            raise BadProject(faults) from refusal
        raise
    rows = [{"kind": c.kind, "name": c.name, "action": c.action, "generation": c.generation} for c in changes]
    show(rows, as_json=as_json)


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
    what: str = typer.Argument("all", help=", ".join([*KINDS, "datasets"])),
    output: Annotated[
        str, typer.Option("-o", "--output", help="wide: with what is in it, and who uses it.")
    ] = "",
    directory: Directory = HOME,
    as_json: Json = False,
) -> None:
    """List what has been applied, or the datasets that runs were trained on."""
    if what not in (*KINDS, "datasets"):
        raise Rejected(f"{what!r} is nothing that can be got: write one of {', '.join([*KINDS, 'datasets'])}")
    if output not in FORMS or (output and what in ("all", "datasets")):
        raise Rejected(f"{what} has no form {output!r}: write wide, with sources, featureviews or models")
    if what == "datasets":
        runs = ask(directory, lambda trimtab: trimtab.runs())
        show(
            datasets.used(runs), as_json=as_json, empty="no run has been trained yet: see `trimtab run list`"
        )
        return
    if output:
        everything = ask(directory, lambda trimtab: trimtab.resources())
        show(
            Lineage(everything).rows(KINDS[what]),
            as_json=as_json,
            empty="nothing has been applied: see `trimtab apply`",
        )
        return
    found = ask(directory, lambda trimtab: trimtab.resources(KINDS[what]))
    if as_json:
        print_json([plain(resource) for resource in found])
        return
    rows = [
        {
            "kind": resource.kind,
            "name": resource.name,
            "generation": resource.generation,
            "applied": iso(from_timestamp(resource.applied_at)),
            "by": resource.applied_by,
        }
        for resource in found
    ]
    show(rows, as_json=False, empty="nothing has been applied: see `trimtab apply`")


def predict(
    model: str,
    row: str = typer.Argument(help="A row of the model's source, as a JSON object."),
    directory: Directory = HOME,
    as_json: Json = False,
) -> None:
    """Ask MODEL for a prediction."""
    try:
        fields = json.loads(row)
    except json.JSONDecodeError as error:
        raise Rejected(
            f"the row is no JSON ({error}): write an object such as '{{\"distance\": 2.5}}'"
        ) from error
    answer = ask(directory, lambda trimtab: trimtab.predict(model, [fields]))
    if as_json:
        print_json(plain(answer))
        return
    show(
        [{"prediction": answer.predictions[0], "version": answer.versions[0], "id": answer.ids[0]}],
        as_json=False,
    )
