"""Evidently's report of a model that is live, for `trimtab report MODEL`."""

from pathlib import Path
from urllib.parse import quote

from trimtab_runtime.clock import iso
from trimtab_runtime.errors import Rejected

from trimtab.cli.session import ask, console, moment, print_json
from trimtab.observing import Report


def report(
    directory: Path, model: str, out: Path, *, since: str, until: str, rows: int, episode: str, as_json: bool
) -> None:
    """Write the report of a model's newest rows, or of an episode of drift, as HTML and as JSON beside it, and say where.

    `out` is the file of the HTML, or a folder, in which the file is called by model and version or episode.
    """
    since_ms = moment("--from", since) if since else None
    until_ms = moment("--to", until) if until else None
    made = ask(
        directory,
        lambda trimtab: trimtab.report(
            model, since_ms=since_ms, until_ms=until_ms, rows=0 if episode else rows, episode=episode
        ),
    )
    called = f"{quote(model, safe='')}-{quote(episode, safe='') or made.version}.html"
    files = _write(made, out if out.suffix == ".html" else out / called)
    if as_json:
        about = {"model": model, "version": made.version, "rows": made.rows}
        print_json(
            about | {"first": iso(made.first_ms), "last": iso(made.last_ms), "files": list(map(str, files))}
        )
        return
    console.print(
        f"{made.rows} predictions of version {made.version} of {model}, from {iso(made.first_ms)} to "
        f"{iso(made.last_ms)}, beside what it was trained on",
        markup=False, highlight=False, soft_wrap=True,
    )  # fmt: skip
    for file in files:
        console.print(f"wrote {file}", markup=False, highlight=False, soft_wrap=True)


def _write(made: Report, path: Path) -> list[Path]:
    files = [path, path.with_suffix(".json")]
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        for file, content in zip(files, (made.html, made.json), strict=True):
            file.write_bytes(content)
    except OSError as error:
        raise Rejected(f"{path} cannot be written ({error}): name another file with -o") from error
    return files
