"""`trimtab model export`."""

from pathlib import Path
from typing import Annotated

import typer
from trimtab_runtime import bundle
from trimtab_runtime.clock import SystemClock, iso
from trimtab_runtime.errors import Rejected

from trimtab.bundling import make_bundle
from trimtab.cli.session import HOME, Directory, Json, ask, environ, print_json, show, wanted


def export(
    model: str,
    output: Annotated[Path, typer.Option("-o", "--output", help="The file to write.")],
    key: Annotated[
        Path | None,
        typer.Option(help="A file with a secret, which signs the bundle and is needed to serve it."),
    ] = None,
    unsigned: Annotated[bool, typer.Option("--unsigned", help="Sign it with nothing.")] = False,
    version: Annotated[int, typer.Option(help="One of the warm versions; the champion, if not given.")] = 0,
    most_mb: Annotated[int, typer.Option(min=0, help="The most that it may hold of views and tables.")] = 256,
    directory: Directory = HOME,
    as_json: Json = False,
) -> None:
    """Write a version of MODEL and all that it takes into one file, which `trimtab-serving --bundle` serves alone."""
    if (key is None) is not unsigned:
        raise Rejected("say with which --key the bundle is to be signed, or that it may be --unsigned")
    secret = bundle.key_in(key) if key else None
    [servers] = wanted(environ(directory), "TRIMTAB_KAFKA_SERVERS")
    made = ask(directory, lambda it: make_bundle(it, servers, model, version, SystemClock(), most_mb=most_mb))
    bundle.write(output, made, secret)
    done = {
        "file": str(output),
        "model": made.model,
        "version": made.version,
        "bytes": output.stat().st_size,
        "signed": secret is not None,
        "features until": iso(made.features_until_ms) if made.features_until_ms is not None else None,
    }
    if as_json:
        print_json(done)
    else:
        show([done], as_json=False)
