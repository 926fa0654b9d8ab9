"""What all commands share: which stack they speak to, and how they answer."""

import asyncio
import getpass
import json
import os
import re
import sys
from collections.abc import Awaitable, Callable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, TypeVar

import typer
from google.protobuf import json_format
from google.protobuf.message import Message
from rich.console import Console
from rich.markup import escape
from rich.table import Table
from trimtab_runtime.clock import parse_iso
from trimtab_runtime.errors import Rejected, Unavailable
from trimtab_stack import jars, supervisor

from trimtab.client import Trimtab
from trimtab.finding import HOME as HOME
from trimtab.finding import addresses as addresses
from trimtab.finding import environ as environ
from trimtab.finding import given
from trimtab.finding import wanted as wanted

T = TypeVar("T")
console = Console()

Directory = Annotated[
    Path,
    typer.Option("--dir", envvar="TRIMTAB_DIR", help="Where the stack keeps its data.", show_default=True),
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]
_UNITS = ((86_400_000, "d"), (3_600_000, "h"), (60_000, "min"), (1_000, "s"))
_NOT_SETTINGS = ("TRIMTAB_DIR", "TRIMTAB_ACTOR", "TRIMTAB_CACHE")


def settings() -> dict[str, str]:
    """Return the environment's variables that configure the services of a stack that is started.

    Addresses are not among them: those say where another Trimtab is, and a stack chooses its own.
    """
    return {
        name: value
        for name, value in given().items()
        if not name.endswith("_ADDRESS") and name not in _NOT_SETTINGS
    }


def cache() -> Path:
    """Return where what was fetched once is kept."""
    return jars.cache(os.environ).parent  # noqa: TID251 - the command's door to the environment


def actor() -> str:
    """Return who is asking, for the audit log: TRIMTAB_ACTOR, or else the login name."""
    if named := os.environ.get("TRIMTAB_ACTOR"):  # noqa: TID251 - as above
        return named
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a user that the machine has no name for, as in a container
        return f"uid-{os.getuid()}"


def moment(option: str, text: str) -> int:
    """Return the milliseconds since the epoch of an option's RFC 3339 time, or day, such as 2020-03-15: its midnight, UTC.

    Raises:
        Rejected: it is neither.
    """
    try:
        return parse_iso(f"{text}T00:00:00Z" if re.fullmatch(r"\d{4}-\d\d-\d\d", text) else text)
    except ValueError as error:
        example = "2020-03-15T12:00:00Z, or a day such as 2020-03-15"
        raise Rejected(f"{option} {text!r} is no time: write one such as {example}") from error


def ask(directory: Path, question: Callable[[Trimtab], Awaitable[T]]) -> T:
    """Put a question to the running Trimtab."""

    async def run() -> T:
        async with Trimtab.connect(addresses(environ(directory))) as trimtab:
            return await question(trimtab)

    try:
        return asyncio.run(run())
    except Unavailable as error:
        if supervisor.status(directory):
            error.add_note(f"The logs are in {directory / 'logs'}.")
        raise


def about(milliseconds: float) -> str:
    """Return a length of time in its largest unit, such as `5 h`."""
    length, unit = next((each for each in _UNITS if milliseconds >= each[0]), _UNITS[-1])
    return f"{round(milliseconds / length)} {unit}"


def show(
    rows: Sequence[Mapping[str, Any]],
    *,
    as_json: bool,
    title: str = "",
    empty: str = "nothing yet",
    whole: int = 0,
) -> None:
    """Print `rows` as a table, or as JSON; the first `whole` columns are never broken."""
    if as_json:
        print_json(list(rows))
        return
    if not rows:
        console.print(empty)
        return
    table = Table(title=title, header_style="bold", title_justify="left")
    for at, name in enumerate(rows[0]):
        table.add_column(name, overflow="fold", no_wrap=at < whole)
    for row in rows:
        table.add_row(*[_cell(value) for value in row.values()])
    console.print(table)


def print_json(value: Any) -> None:
    """Print `value` as JSON on standard output."""
    json.dump(value, sys.stdout, indent=2)
    sys.stdout.write("\n")


def plain(message: Message) -> dict[str, Any]:
    """Return a message's JSON mapping."""
    return json_format.MessageToDict(message, preserving_proto_field_name=True)


def _cell(value: Any) -> str:
    if value is None or value == "":
        return "-"
    if isinstance(value, float):
        return f"{value:.4g}"
    return escape(str(value))
