"""`trimtab up | down | status | doctor`."""

import typer
from trimtab_runtime.errors import Rejected
from trimtab_stack import doctor as checks
from trimtab_stack import supervisor
from trimtab_stack.stack import SERVICES

from trimtab.cli.session import HOME, Directory, Json, console, print_json, settings, show


def add_to(app: typer.Typer) -> None:
    """Add the commands to `app`."""
    for command in (up, down, status, doctor):
        app.command()(command)


def up(
    directory: Directory = HOME,
    scale: str = typer.Option("", help="Processes of each service, such as serving=2,feature_store=2."),
) -> None:
    """Start Kafka, PostgreSQL and the six services, and leave them running."""
    wanted, running = settings(), supervisor.status(directory)
    if running and scale:
        raise Rejected(f"a stack runs in {directory}, and --scale does not change it: `trimtab down` first")
    if running and wanted:
        names = ", ".join(sorted(wanted))
        console.print(f"It runs already, as it was started; {names} would hold after `trimtab down`.")
    with console.status("starting Kafka, PostgreSQL and six services"):
        state = supervisor.up(directory, parse_scale(scale), wanted)
    kafka, postgres = state.versions.get("kafka", "external"), state.versions.get("postgres", "external")
    console.print(f"Trimtab is up: Kafka {kafka}, PostgreSQL {postgres}, data in {directory}")
    show([{"part": name, "address": at} for name, at in state.addresses.items()], as_json=False)


def down(directory: Directory = HOME) -> None:
    """Stop what `up` started; the data stays."""
    with console.status("stopping"):
        supervisor.down(directory)
    console.print("Trimtab is down")


def status(directory: Directory = HOME, as_json: Json = False) -> None:
    """Say what runs, and where."""
    state = supervisor.status(directory)
    if state is None:
        raise Rejected(f"there is no Trimtab in {directory}: start one with `trimtab up`")
    rows = [
        {"part": name, "address": at, "pid": state.processes[name].pid if name in state.processes else None}
        for name, at in state.addresses.items()
    ]
    if as_json:
        print_json(
            {"status": state.status, "error": state.error, "versions": dict(state.versions), "parts": rows}
        )
        return
    console.print(f"{state.status}" + (f": {state.error}" if state.error else ""))
    show(rows, as_json=False)


def doctor(as_json: Json = False) -> None:
    """Say what this machine lacks, and how to get it."""
    found = checks.checks()
    rows = [
        {
            "check": check.name,
            "ok": "yes" if check.ok else "NO",
            "found": check.found,
            "remedy": "" if check.ok else check.remedy,
        }
        for check in found
    ]
    show(rows, as_json=as_json)
    if not all(check.ok for check in found):
        raise typer.Exit(1)


def parse_scale(text: str) -> dict[str, int]:
    """Return how many processes each service gets.

    Raises:
        Rejected: the text names no service, or no number.
    """
    counts = dict.fromkeys(SERVICES, 1)
    for part in filter(None, text.split(",")):
        name, _, number = part.partition("=")
        if name not in counts or not number.isdigit() or int(number) < 1:
            raise Rejected(
                f"--scale {part!r} is not understood: write service=number, with a service of {', '.join(SERVICES)}"
            )
        counts[name] = int(number)
    return counts
