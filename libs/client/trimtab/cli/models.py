"""`trimtab model list | versions | train | approve | reject | promote | rollback`."""

from typing import Annotated

import typer
from trimtab_contracts.registry.v1.registry_pb2 import VersionEvent
from trimtab_runtime.clock import from_timestamp, iso

from trimtab.cli.session import HOME, Directory, Json, actor, ask, console, moment, plain, print_json, show
from trimtab.cli.watching import run_of, watch

app = typer.Typer(no_args_is_help=True)
Comment = Annotated[str, typer.Option(help="Why, for the audit log.")]


@app.command("list")
def list_(directory: Directory = HOME, as_json: Json = False) -> None:
    """List the models."""
    models = ask(directory, lambda trimtab: trimtab.resources("Model"))
    rows = [{"model": model.name, "generation": model.generation, "by": model.applied_by} for model in models]
    show(rows, as_json=as_json, empty="there is no model: see `trimtab apply`")


@app.command()
def versions(
    model: str,
    at: Annotated[str, typer.Option(help="Only what served at this time (RFC 3339).")] = "",
    directory: Directory = HOME,
    as_json: Json = False,
) -> None:
    """List the versions of MODEL, and when each served."""
    live_at_ms = moment("--at", at) if at else None
    found = ask(directory, lambda trimtab: trimtab.versions(model, live_at_ms=live_at_ms))
    if as_json:
        print_json([plain(version) for version in found])
        return
    rows = [
        {
            "version": version.number,
            "stage": VersionEvent.Stage.Name(version.stage).lower(),
            "rows": version.candidate.rows,
            **{
                name: version.candidate.metrics[name]
                for name in sorted(version.candidate.metrics)
                if "_" not in name
            },
            "gates": f"{sum(gate.passed for gate in version.gates)}/{len(version.gates)}",
            "live from": _time(version, "live_from"),
            "live to": _time(version, "live_to"),
        }
        for version in found
    ]
    show(rows, as_json=False, empty=f"{model} has no version: order one with `trimtab model train {model}`")


@app.command()
def train(
    model: str,
    reason: Annotated[str, typer.Option(help="Why, for the ledger.")] = "asked for by a person",
    as_of: Annotated[
        str, typer.Option(help="The training rows end here (RFC 3339); by default, where the archive does.")
    ] = "",
    wait: Annotated[
        bool,
        typer.Option(
            "--wait", help="Watch the run, and end as it ends: 0, 1 if it failed, 3 if it was cancelled."
        ),
    ] = False,
    directory: Directory = HOME,
    as_json: Json = False,
) -> None:
    """Order a candidate for MODEL; it goes through the gates and the rollout like any other."""
    as_of_ms = moment("--as-of", as_of) if as_of else None
    command = ask(
        directory, lambda trimtab: trimtab.train(model, reason=reason, actor=actor(), as_of_ms=as_of_ms)
    )
    if wait:
        watch(directory, lambda trimtab: run_of(trimtab, model, command), as_json=as_json)
        return
    if as_json:
        print_json({"command_id": command})
        return
    console.print(f"ordered: follow it with `trimtab loop show {command}`")


@app.command()
def approve(model: str, version: int, comment: Comment = "", directory: Directory = HOME) -> None:
    """Let VERSION, which waits for approval, go on."""
    ask(directory, lambda t: t.decide("Approve", model, version, actor=actor(), comment=comment))
    console.print(f"{model} version {version} is approved")


@app.command()
def reject(model: str, version: int, comment: Comment = "", directory: Directory = HOME) -> None:
    """Refuse VERSION, which waits for approval."""
    ask(directory, lambda t: t.decide("Reject", model, version, actor=actor(), comment=comment))
    console.print(f"{model} version {version} is rejected")


@app.command()
def promote(model: str, version: int, comment: Comment = "", directory: Directory = HOME) -> None:
    """Make VERSION the champion."""
    ask(directory, lambda t: t.decide("Promote", model, version, actor=actor(), comment=comment))
    console.print(f"{model} version {version} is to serve")


@app.command()
def rollback(model: str, comment: Comment = "", directory: Directory = HOME) -> None:
    """Bring the previous champion of MODEL back."""
    deployment = ask(directory, lambda t: t.rollback(model, actor=actor(), comment=comment))
    console.print(f"{model} version {deployment.champion.number} is to serve again")


def _time(version: object, name: str) -> str:
    return iso(from_timestamp(getattr(version, name))) if version.HasField(name) else ""  # type: ignore[attr-defined]
