"""`trimtab audit log | verify | skew`."""

from typing import Annotated, Any

import typer
from trimtab_contracts.features.v1.features_pb2 import AuditSkewResponse
from trimtab_runtime.clock import from_timestamp, iso
from trimtab_runtime.errors import Rejected

from trimtab.audit import Verified, told
from trimtab.audit import verify as verified
from trimtab.cli.session import (
    HOME,
    Directory,
    Json,
    ask,
    console,
    environ,
    moment,
    plain,
    print_json,
    show,
    wanted,
)
from trimtab.client import Trimtab

app = typer.Typer(no_args_is_help=True)


@app.command()
def log(
    resource: Annotated[
        str, typer.Argument(help="Kind/name, such as Model/trip-minutes; all by default.")
    ] = "",
    since: Annotated[str, typer.Option(help="Only what was done at this time (RFC 3339) or later.")] = "",
    until: Annotated[str, typer.Option(help="Only what was done before this time.")] = "",
    by: Annotated[str, typer.Option("--actor", help="Only what this actor did.")] = "",
    action: Annotated[str, typer.Option(help="Only what was done, such as promoted.")] = "",
    limit: Annotated[int, typer.Option(min=1, max=10_000, help="The newest so many.")] = 100,
    directory: Directory = HOME,
    as_json: Json = False,
) -> None:
    """Show who did what, when and why, newest last."""
    since_ms = moment("--since", since) if since else None
    until_ms = moment("--until", until) if until else None
    found = ask(
        directory,
        lambda it: it.audit(
            resource, actor=by, action=action, since_ms=since_ms, until_ms=until_ms, limit=limit
        ),
    )
    if as_json:
        print_json([plain(entry) for entry in reversed(found)])
        return
    rows = [
        {
            "at": iso(from_timestamp(entry.at))[:19],
            "who": entry.actor,
            "did": entry.action,
            "to": _named(entry.resource, plain(entry.details)),
            "why": entry.reason,
        }
        for entry in reversed(found)
    ]
    show(rows, as_json=False, empty="nothing of that kind was done")


def _named(resource: str, details: dict[str, Any]) -> str:
    return f"{resource} version {details['version']:g}" if "version" in details else resource


@app.command()
def verify(
    against_topic: Annotated[
        bool, typer.Option("--against-topic", help="Also compare with what was told on the topic audit.")
    ] = False,
    directory: Directory = HOME,
    as_json: Json = False,
) -> None:
    """Recompute the audit log's chain of hashes; exit 1 with the first entry that does not fit."""
    servers = wanted(environ(directory), "TRIMTAB_KAFKA_SERVERS")[0] if against_topic else ""

    async def question(trimtab: Trimtab) -> Verified:
        against = await told(servers) if servers else None  # first: each entry is told after it is in the log
        return await verified(trimtab.read_audit(), against)

    found = ask(directory, question)
    if as_json:
        compared = {"told": found.told} if against_topic else {}
        print_json({"entries": found.entries, "whole": not found.fault, **compared, "fault": found.fault})
        if found.fault:
            raise typer.Exit(1)
        return
    if found.fault:
        raise Rejected(f"audit: {found.fault}")
    compared_with = f", {found.told:,} of them told alike on the topic" if against_topic else ""
    console.print(f"audit: {found.entries:,} entries, whole{compared_with}", highlight=False)


@app.command()
def skew(
    model: str,
    since: Annotated[str, typer.Option(help="Only predictions of this event time (RFC 3339) or later.")] = "",
    until: Annotated[str, typer.Option(help="Only those of an earlier event time than this.")] = "",
    directory: Directory = HOME,
    as_json: Json = False,
) -> None:
    """Compare the features that serving logged for MODEL with what the archive says they should have been."""
    since_ms = moment("--since", since) if since else None
    until_ms = moment("--until", until) if until else None
    found = ask(directory, lambda it: it.audit_skew(model, since_ms=since_ms, until_ms=until_ms))
    rows = [_skewed(each) for each in found.features]
    if as_json:
        counts = ("rows", "mismatched", "rows_past_archive", "rows_without_event", "rows_of_old_features")
        print_json({"model": model, **{name: getattr(found, name) for name in counts}, "features": rows})
        return
    console.print(
        f"{found.rows} predictions compared, {found.mismatched} of them not as they should have been."
    )
    if found.rows_past_archive:
        console.print(
            f"{found.rows_past_archive} are not compared yet: the archive's watermark has not passed them."
        )
    if found.rows_without_event:
        console.print(
            f"{found.rows_without_event} were not compared: their event was never sent, or refused."
        )
    if found.rows_of_old_features:
        console.print(
            f"{found.rows_of_old_features} were not compared: their version takes a feature that is no more."
        )
    show(rows, as_json=False, empty="nothing could be compared")


def _skewed(found: AuditSkewResponse.Feature) -> dict[str, Any]:
    worst = found.worst
    example = (
        f"{worst.key} at {iso(from_timestamp(worst.event_time))}, version {worst.version}: logged {worst.logged:g}, "
        f"recomputed {worst.recomputed:g}"
    )
    return {
        "feature": found.name,
        "rows": found.rows,
        "mismatch share": found.mismatched / found.rows,
        "missing share": found.missing / found.rows,
        "extra share": found.extra / found.rows,
        "worst": example if found.HasField("worst") else None,
    }
