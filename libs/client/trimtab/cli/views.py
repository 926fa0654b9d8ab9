"""`trimtab view rebuild`."""

from typing import Annotated

import typer

from trimtab.cli.session import HOME, Directory, Json, actor, ask, console, plain, print_json

app = typer.Typer(no_args_is_help=True)


@app.callback()
def views() -> None:
    """Make a group of what is one command so far."""


@app.command()
def rebuild(
    view: str,
    reason: Annotated[str, typer.Option(help="Why, for the audit log.")] = "asked for by a person",
    directory: Directory = HOME,
    as_json: Json = False,
) -> None:
    """Make VIEW anew from all that the archive holds; it answers as before until it has begun."""
    rebuilt = ask(directory, lambda trimtab: trimtab.rebuild(view, actor=actor(), reason=reason))
    if as_json:
        print_json(plain(rebuilt))
        return
    console.print(f"{view} begins generation {rebuilt.generation}")
