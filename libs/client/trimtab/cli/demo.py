"""`trimtab demo`."""

from pathlib import Path
from typing import Annotated

import typer
from trimtab_runtime.clock import iso
from trimtab_runtime.errors import Rejected

from trimtab.cli.session import HOME, Directory, cache, console, moment


def add_to(app: typer.Typer) -> None:
    """Add the command to `app`."""
    app.command()(demo)


def demo(
    directory: Directory = HOME,
    until: Annotated[str, typer.Option(help="Stop the story at this day (yyyy-mm-dd).")] = "2020-10-01",
    keep: Annotated[bool, typer.Option("--keep", help="Leave the stack running afterwards.")] = False,
    write_to: Annotated[
        Path | None,
        typer.Option("--write", help="Write the project and its trips into this folder, and start nothing."),
    ] = None,
) -> None:
    """Watch a production model meet March 2020: caught, retrained, judged, replaced."""
    from trimtab.demo.run import LIVE_FROM, run, write

    if write_to is not None:
        for path in write(write_to, cache()):
            console.print(f"wrote {path}", soft_wrap=True, highlight=False, markup=False)
        return
    until_ms = moment("--until", until)
    if until_ms <= LIVE_FROM:
        raise Rejected(
            f"--until {until!r} is not after {iso(LIVE_FROM)[:10]}, where the story begins: name a later day"
        )
    run(directory / "demo", cache(), until_ms=until_ms, keep=keep)
