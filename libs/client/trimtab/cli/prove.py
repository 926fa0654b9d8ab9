"""`trimtab test`: a project's own tests, before it is applied and in CI."""

import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Annotated
from xml.etree import ElementTree

import typer
from trimtab_runtime.errors import Rejected, Unavailable

from trimtab import proving
from trimtab.cli.session import HOME, Directory, Json, ask, print_json
from trimtab.project import BadProject, Project, read
from trimtab.proving import Outcome


def add_to(app: typer.Typer) -> None:
    """Add the command to `app`."""
    app.command("test")(prove)


def prove(
    path: Path,
    junit: Annotated[Path | None, typer.Option(help="Write the results there too, as JUnit's XML.")] = None,
    directory: Directory = HOME,
    as_json: Json = False,
) -> None:
    """Run the tests of the project in PATH: contracts and features here, behaviour against what is live.

    Ends with exit 1 and a line for each failure. Without a Trimtab that runs, behaviour waits for a candidate.
    """
    project = read(path)
    if project.faults:
        raise BadProject(project.faults)
    found = [*proving.offline(project), *_behaviour(project, directory)]
    if junit is not None:
        write_junit(junit, found)
    if as_json:
        print_json([asdict(outcome) for outcome in found])
    else:
        tell(found)
    if any(outcome.state == "failed" for outcome in found):
        sys.exit(1)


def _behaviour(project: Project, directory: Path) -> Sequence[Outcome]:
    if not proving.behaviours(project):
        return []
    try:
        return ask(directory, lambda trimtab: proving.against_live(trimtab, project))
    except Unavailable as error:
        why = f"it is held against the next candidate, for no live version could be asked ({error})"
        return [each for test in proving.behaviours(project) for each in proving.waiting(project, test, why)]


def tell(found: Sequence[Outcome]) -> None:
    """Print a line for each failure, one for each reason to wait, and how many there are of each."""
    for outcome in found:
        if outcome.state == "failed":
            typer.echo(f"FAILED {outcome}")
    for why, count in Counter(outcome.said for outcome in found if outcome.state == "waits").items():
        typer.echo(f"waits  {count} of behaviour: {why}")
    counts = Counter(outcome.state for outcome in found)
    said = ", ".join(f"{counts[state]} {state}" for state in ("passed", "failed", "waits") if counts[state])
    typer.echo(f"tests: {said.replace('waits', 'waiting')}" if found else "there is no test in the project")


def write_junit(path: Path, found: Sequence[Outcome]) -> None:
    """Write results in the form that CI servers read.

    Raises:
        Rejected: the file cannot be written.
    """
    root = ElementTree.Element("testsuites")
    for suite in dict.fromkeys(outcome.suite for outcome in found):
        cases = [outcome for outcome in found if outcome.suite == suite]
        states = Counter(outcome.state for outcome in cases)
        numbers = {"tests": len(cases), "failures": states["failed"], "skipped": states["waits"], "errors": 0}
        said = {"name": suite, **{name: str(number) for name, number in numbers.items()}}
        element = ElementTree.SubElement(root, "testsuite", said)
        for outcome in cases:
            file, _, line = outcome.place.rpartition(":")
            case = ElementTree.SubElement(
                element, "testcase", classname=suite, name=outcome.name, file=file, line=line
            )
            if outcome.state != "passed":
                tag = "failure" if outcome.state == "failed" else "skipped"
                ElementTree.SubElement(case, tag, message=outcome.said)
    try:
        ElementTree.ElementTree(root).write(path, encoding="unicode", xml_declaration=True)
    except OSError as error:
        raise Rejected(f"--junit {path} cannot be written ({error.strerror}): name another file") from error
