"""`trimtab model list | versions | card | train | approve | reject | promote | rollback`."""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer
from trimtab_contracts.registry.v1.registry_pb2 import (
    Approval,
    AuditEntry,
    Version,
    VersionEvent,
)
from trimtab_core.losses import LOWER_IS_BETTER
from trimtab_runtime.clock import SystemClock, from_timestamp, iso
from trimtab_runtime.errors import Rejected

from trimtab.cli.checks import pending
from trimtab.cli.session import (
    HOME,
    Directory,
    Json,
    about,
    actor,
    ask,
    console,
    moment,
    plain,
    print_json,
    show,
)
from trimtab.cli.watching import ordered
from trimtab.client import Trimtab
from trimtab.evidence import metrics
from trimtab.modelcard import card

app = typer.Typer(no_args_is_help=True)
Comment = Annotated[str, typer.Option(help="Why, for the audit log.")]


@app.command("list")
def list_(
    prefix: Annotated[str, typer.Argument(help="How their names begin.")] = "",
    after: Annotated[str, typer.Option(help="Only models whose names follow this one.")] = "",
    limit: Annotated[int, typer.Option(min=1, max=1_000, help="The first so many.")] = 100,
    directory: Directory = HOME,
    as_json: Json = False,
) -> None:
    """List the models by name: what serves, and what waits for a person."""
    found = ask(directory, lambda trimtab: trimtab.models(prefix, after=after, limit=limit))
    if as_json:
        print_json(plain(found))
        return
    now_ms = SystemClock().now_ms()
    rows = [
        {
            "model": model.name,
            "generation": model.generation,
            "by": model.applied_by,
            "champion": model.champion or None,
            "challenger": model.challenger or None,
            "waits for approval": "; ".join(
                f"version {each.number}: {waits(each.approval, now_ms)}" for each in model.waiting
            ),
        }
        for model in found.models
    ]
    show(rows, as_json=False, empty="there is no such model: see `trimtab apply`")
    if found.more:
        console.print(
            f"there are more: `trimtab model list {prefix} --after {rows[-1]['model']}`".replace("  ", " ")
        )


@app.command()
def versions(
    model: Annotated[
        str, typer.Argument(help="Its name; MODEL@stable, MODEL@champion or MODEL@3 is that one.")
    ],
    at: Annotated[str, typer.Option(help="Only what served at this time (RFC 3339), and who let it.")] = "",
    output: Annotated[
        str, typer.Option("-o", "--output", help="wide: with every metric and its interval.")
    ] = "",
    gates: Annotated[
        bool, typer.Option("--gates", help="What each gate and test found of them, with its numbers.")
    ] = False,
    directory: Directory = HOME,
    as_json: Json = False,
) -> None:
    """List the versions of MODEL, what each is called, and when it served."""
    if output not in ("", "wide"):
        raise Rejected(f"versions have no form {output!r}: write wide")
    live_at_ms = moment("--at", at) if at else None
    model, _, called = model.partition("@")
    if called and at:
        raise Rejected(
            f"--at finds the version that served, so {called!r} says too much: leave one of them out"
        )

    async def question(trimtab: Trimtab) -> tuple[list[Version], list[AuditEntry]]:
        if called:
            return [await trimtab.called(model, called)], []
        found = await trimtab.versions(model, live_at_ms=live_at_ms)
        decided = (
            await trimtab.audit(f"Model/{model}", until_ms=live_at_ms + 1, limit=10_000) if live_at_ms else []
        )
        return found, decided

    found, decided = ask(directory, question)
    if as_json:
        print_json([plain(version) for version in found])
        return
    known = dict.fromkeys(name for version in found for name in metrics(version.candidate))
    names = [name for name in known if output or name in LOWER_IS_BETTER]

    if gates:
        show(_found(found), as_json=False, empty=f"no version of {model} was held to a gate")
        return
    rows = [
        {
            "version": version.number,
            "stage": _stage(version),
            "rows": version.candidate.rows,
            **{name: metrics(version.candidate).get(name) for name in names},
            "gates": f"{sum(gate.passed for gate in version.gates)}/{len(version.gates)}",
            "live from": _time(version, "live_from"),
            "live to": _time(version, "live_to"),
            "called": ", ".join(version.aliases),
            "tags": ", ".join(f"{key}={value}" for key, value in sorted(version.tags.items())),
            **({"let by": _let(version, decided)} if at else {}),
        }
        for version in found
    ]
    show(rows, as_json=False, empty=f"{model} has no version: order one with `trimtab model train {model}`")


@app.command("card")
def card_(
    model: str,
    version: Annotated[
        int | None, typer.Argument(min=1, help="The champion, or the newest, if not given.")
    ] = None,
    output: Annotated[
        Path | None, typer.Option("-o", "--output", help="The file to write: .html, or .md with its plots.")
    ] = None,
    directory: Directory = HOME,
    as_json: Json = False,
) -> None:
    """Show the model card of VERSION, in Markdown, or write it to a file."""
    found = ask(directory, lambda trimtab: card(trimtab, model, version))
    written = found.page().write(output) if output else []
    if as_json:
        print_json(found.described() | ({"files": list(map(str, written))} if output else {}))
        return
    for file in written:
        console.print(f"wrote {file}", markup=False, highlight=False, soft_wrap=True)
    if output is None:
        typer.echo(found.page().markdown(), nl=False)
        return
    for said in found.warnings:
        console.print(said, style="yellow", markup=False, soft_wrap=True)


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
    ordered(directory, model, command, wait=wait, as_json=as_json)


@app.command()
def approve(model: str, version: int, comment: Comment = "", directory: Directory = HOME) -> None:
    """Let VERSION, which waits for approval, go on; where several have to approve, once all have."""
    deployment = ask(directory, lambda t: t.decide("Approve", model, version, actor=actor(), comment=comment))
    goes_on = version == deployment.challenger.number
    console.print(
        f"{model} version {version} is approved{'' if goes_on else ', and waits for others to approve'}"
    )


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


def waits(approval: Approval, now_ms: int) -> str:
    """Return how far an approval has come, and how long it may still take."""
    names = ", ".join(given.actor for given in approval.given)
    said = f"{len(approval.given)} of {approval.approvers}" + (f" ({names})" if names else "")
    if not approval.HasField("until"):
        return said
    left = max(from_timestamp(approval.until) - now_ms, 0)
    return f"{said}, expires in {about(left)}"


def _found(versions: Sequence[Version]) -> list[dict[str, Any]]:
    """Return what each gate found of each version, a line each."""
    return [
        {
            "version": version.number,
            "gate": gate.gate,
            "result": "passed" if gate.passed else "REFUSED",
            "value": gate.value,
            "low": gate.low if gate.HasField("low") else None,
            "high": gate.high if gate.HasField("high") else None,
            "limit": gate.limit,
            "sentence": gate.sentence,
        }
        for version in versions
        for gate in version.gates
    ]


def _let(version: Version, decided: Sequence[AuditEntry]) -> str:
    """Return who let a version serve, and why, from the entries until then, newest first."""
    for entry in decided:
        if entry.action in ("promoted", "restored") and plain(entry.details).get("version") == version.number:
            return f"{entry.actor}: {entry.reason}"
    return ""


def _stage(version: Version) -> str:
    if version.stage == VersionEvent.AWAITING_CHECKS:
        return f"waits for checks: {', '.join(pending(version.checks))}"
    if version.HasField("files_gone"):
        return (
            f"{VersionEvent.Stage.Name(version.stage).lower()}; its files went {_time(version, 'files_gone')}"
        )
    if version.stage == VersionEvent.AWAITING_APPROVAL:
        return f"waits for approval: {waits(version.approval, SystemClock().now_ms())}"
    return VersionEvent.Stage.Name(version.stage).lower()


def _time(version: object, name: str) -> str:
    return iso(from_timestamp(getattr(version, name))) if version.HasField(name) else ""  # type: ignore[attr-defined]
