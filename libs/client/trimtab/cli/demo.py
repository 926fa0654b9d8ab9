"""`trimtab demo`."""

from typing import Annotated

import typer

from trimtab.cli.session import HOME, Directory, cache


def add_to(app: typer.Typer) -> None:
    """Add the command to `app`."""
    app.command()(demo)


def demo(
    directory: Directory = HOME,
    until: Annotated[str, typer.Option(help="Stop the story at this day (yyyy-mm-dd).")] = "2020-10-01",
    keep: Annotated[bool, typer.Option("--keep", help="Leave the stack running afterwards.")] = False,
) -> None:
    """Watch a production model meet March 2020: caught, retrained, judged, replaced."""
    from trimtab.demo.run import run

    run(directory / "demo", cache(), until=until, keep=keep)
