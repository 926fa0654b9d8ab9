"""`trimtab alert list | silence | silences | unsilence`."""

from typing import Annotated, Any

import typer
from trimtab_contracts.monitoring.v1.monitoring_pb2 import HeldAlert, Silence
from trimtab_core.alertkinds import KINDS
from trimtab_core.durations import parse_duration
from trimtab_runtime.clock import SystemClock, from_timestamp, iso
from trimtab_runtime.errors import Rejected

from trimtab.cli.session import HOME, Directory, Json, actor, ask, console, plain, print_json, show

app = typer.Typer(no_args_is_help=True)


@app.command("list")
def list_(
    subject: Annotated[str, typer.Argument(help="A model, source or table.")] = "",
    all_: Annotated[bool, typer.Option("--all", help="Those that are over, too.")] = False,
    directory: Directory = HOME,
    as_json: Json = False,
) -> None:
    """List the alerts about SUBJECT, or all, newest first."""
    found = ask(directory, lambda trimtab: trimtab.alerts(subject, open_only=not all_))
    if as_json:
        print_json([plain(held) for held in found])
        return
    show([_row(held) for held in found], as_json=False, empty="no alert: nothing needs looking at")


@app.command()
def silence(
    subject: Annotated[
        str, typer.Argument(help="A model, source or table, or several with *, as in 'trip-*'.")
    ],
    lasting: Annotated[str, typer.Option("--for", help="How long, such as 2h or 3d.")] = "1h",
    kind: Annotated[str, typer.Option(help=f"Only alerts of this kind: {', '.join(KINDS)}.")] = "",
    reason: Annotated[str, typer.Option(help="Why, for the others.")] = "",
    directory: Directory = HOME,
    as_json: Json = False,
) -> None:
    """Tell nobody of SUBJECT's alerts for a while; what still stands then is told at its end."""
    try:
        until_ms = SystemClock().now_ms() + parse_duration(lasting)
    except ValueError as error:
        raise Rejected(f"--for {lasting!r} is no length of time: write one such as 2h or 3d") from error
    made = ask(
        directory,
        lambda trimtab: trimtab.silence(subject, until_ms, kind=kind, actor=actor(), reason=reason),
    )
    if as_json:
        print_json(plain(made))
        return
    console.print(f"silence {made.id}: nobody is told of {subject} until {_at(made.until)}")


@app.command()
def silences(directory: Directory = HOME, as_json: Json = False) -> None:
    """List the silences that hold."""
    found = ask(directory, lambda trimtab: trimtab.silences())
    if as_json:
        print_json([plain(each) for each in found])
        return
    show([_silence(each) for each in found], as_json=False, empty="nothing is silent")


@app.command()
def unsilence(id: int, directory: Directory = HOME) -> None:
    """End a silence now, and tell what it has put off."""
    ask(directory, lambda trimtab: trimtab.end_silence(id))
    console.print(f"silence {id} is over")


def _row(held: HeldAlert) -> dict[str, Any]:
    return {
        "since": _at(held.alert.at),
        "until": _at(held.resolved_at) if held.HasField("resolved_at") else "",
        "subject": held.alert.subject,
        "severity": held.alert.severity,
        "kind": held.alert.kind,
        "what": held.alert.sentence,
        "still to be told": ", ".join(held.waiting) + (f": {held.fault}" if held.fault else ""),
    }


def _silence(held: Silence) -> dict[str, Any]:
    return {
        "id": held.id,
        "subject": held.subject,
        "kind": held.kind or "all",
        "until": _at(held.until),
        "by": held.actor,
        "why": held.reason,
    }


def _at(stamp: Any) -> str:
    return iso(from_timestamp(stamp))[:16]
