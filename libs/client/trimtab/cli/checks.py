"""`trimtab check post | list`: what tools outside say of a version."""

from typing import Annotated

import typer
from trimtab_contracts.registry.v1.registry_pb2 import Checks, VersionEvent
from trimtab_runtime.clock import from_timestamp, iso
from trimtab_runtime.errors import Rejected

from trimtab.cli.session import HOME, Directory, Json, actor, ask, console, plain, print_json, show

app = typer.Typer(no_args_is_help=True)


@app.command()
def post(
    model: str,
    version: int,
    name: Annotated[str, typer.Argument(help="Of the check, as the model's spec has it in rollout.checks.")],
    passed: Annotated[
        bool | None, typer.Option("--passed/--failed", help="What it came to.", show_default=False)
    ] = None,
    comment: Annotated[str, typer.Option(help="What was found, for the audit log.")] = "",
    url: Annotated[str, typer.Option(help="Where more is told, such as the pipeline's run.")] = "",
    directory: Directory = HOME,
    as_json: Json = False,
) -> None:
    """Say what a check of VERSION came to; one that failed rejects it, or takes it back."""
    if passed is None:
        raise Rejected("what the check came to is missing: say --passed or --failed")
    found = ask(
        directory,
        lambda trimtab: trimtab.post_check(
            model, version, name, passed=passed, actor=actor(), comment=comment, url=url
        ),
    )
    if as_json:
        print_json(plain(found))
        return
    said = f"{model} version {version}: {name} {'passed' if passed else 'failed'}"
    if waits := pending(found.checks):
        said += f", and {', '.join(waits)} {'has' if len(waits) == 1 else 'have'} still to pass"
    console.print(f"{said}; it is {VersionEvent.Stage.Name(found.stage).lower()}")


@app.command("list")
def list_(model: str, directory: Directory = HOME, as_json: Json = False) -> None:
    """List what was posted of the versions of MODEL, and what they wait for."""
    rows = [
        {
            "version": version.number,
            "check": name,
            "result": "awaited" if held is None else "passed" if held.passed else "FAILED",
            "by": held.actor if held else "",
            "roles": ", ".join(held.roles) if held else "",
            "at": iso(from_timestamp(held.at)) if held else "",
            "comment": held.comment if held else "",
            "url": held.url if held else "",
        }
        for version in ask(directory, lambda trimtab: trimtab.versions(model))
        for name, held in _by_name(version.checks).items()
    ]
    show(rows, as_json=as_json, empty=f"no check is asked of the versions of {model}: see rollout.checks")


def pending(checks: Checks) -> list[str]:
    """Return the checks that have still to be posted as passed."""
    passed = {held.name for held in checks.posted if held.passed}
    return [name for name in checks.required if name not in passed]


def _by_name(checks: Checks) -> dict[str, Checks.Check | None]:
    return {**dict.fromkeys(checks.required), **{held.name: held for held in checks.posted}}
