"""`trimtab apply | get | predict`."""

import json
from pathlib import Path

import typer
from trimtab_runtime.clock import from_timestamp, iso
from trimtab_runtime.errors import Rejected

from trimtab.cli.session import HOME, Directory, Json, actor, ask, plain, print_json, show
from trimtab.project import load

KINDS = {"sources": "Source", "featureviews": "FeatureView", "models": "Model", "all": ""}


def add_to(app: typer.Typer) -> None:
    """Add the commands to `app`."""
    for command in (apply, get, predict):
        app.command()(command)


def apply(path: Path, directory: Directory = HOME, as_json: Json = False) -> None:
    """Make the specs in PATH (a YAML file, or a folder of them) the wanted state."""
    project = load(path)
    try:
        changes = ask(directory, lambda trimtab: trimtab.apply(project.resources, actor=actor()))
    except Rejected as refusal:
        raise project.placed(refusal) from refusal
    rows = [{"kind": c.kind, "name": c.name, "action": c.action, "generation": c.generation} for c in changes]
    show(rows, as_json=as_json)


def get(
    what: str = typer.Argument("all", help=", ".join(KINDS)),
    directory: Directory = HOME,
    as_json: Json = False,
) -> None:
    """List what has been applied."""
    if what not in KINDS:
        raise Rejected(f"{what!r} is nothing that can be got: write one of {', '.join(KINDS)}")
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
