"""From specs and files to a backtest: which file holds which source's events, read, and lived."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from typing import Any, Final

from trimtab_core.specs import Model, ModelTest, Resource
from trimtab_runtime.errors import Rejected

from trimtab.backtest import guessing, history, strategies, telling
from trimtab.backtest.history import Events, History, Project
from trimtab.backtest.living import NOBODY, Watching
from trimtab.backtest.shelf import Shelf, opened
from trimtab.backtest.strategies import Backtest, Wishes
from trimtab.files import File

_NOTHING_ASKED: Final = Wishes()
BESIDE: Final = ("never", "on_drift")
"""What is lived of the spec that is applied, to be beside the planned one."""


@dataclass(frozen=True, slots=True)
class Compared:
    """A planned spec on history, and the applied one."""

    planned: Backtest
    applied: Backtest | None = None
    fault: str = ""
    """Why the applied one could not be lived, if one is there."""

    def document(self) -> dict[str, Any]:
        """Return it as `plan --json` prints it."""
        applied = None if self.applied is None else telling.document(self.applied)
        return {"planned": telling.document(self.planned), "applied": applied, "fault": self.fault}


def backtest(
    resources: Iterable[Resource],
    files: Sequence[str],
    wishes: Wishes = _NOTHING_ASKED,
    *,
    model: str = "",
    format: str = "",
    encoding: str = "utf-8",
    reading: Mapping[str, Any] | None = None,
    watching: Watching = NOBODY,
) -> Backtest:
    """Return what a model of `resources` would have done on the history in `files`, each a path or SOURCE=PATH.

    Raises:
        NotFound: there is no such file.
        Rejected: files and specs do not make a history, or nothing can be said by it; it says why.
    """
    every = list(resources)
    project = Project.of(every, model)
    held = read(project, files, format=format, encoding=encoding, reading=reading, watching=watching)
    return live(project, every, history.history(project, held), wishes, watching)


def guessed(
    file: File,
    wishes: Wishes = _NOTHING_ASKED,
    *,
    label: str,
    time: str = "",
    task: str = "",
    watching: Watching = NOBODY,
) -> Backtest:
    """Return what a model of a file's column `label` would have done, of which nobody has written a spec.

    Raises:
        Rejected: nothing can be said by the file; it says why.
    """
    found = guessing.guess(file, label=label, time=time, task=task)
    project = Project.of(found.resources)
    [(name, source)] = project.sources.items()
    rows = history.events(
        source, [found.file], project.fields(name), found.reading, lambda rows: watching.on_rows(name, rows)
    )
    model, step_ms = guessing.settled(project.model, rows.at_ms)
    project = replace(project, model=model)
    asked = replace(wishes, step_ms=wishes.step_ms or step_ms)
    lived = replace(history.history(project, {name: rows}), in_order=found.in_order)
    return replace(live(project, [], lived, asked, watching), remarks=found.remarks)


def compared(
    planned: Sequence[Resource],
    applied: Sequence[Resource],
    files: Sequence[str],
    wishes: Wishes,
    *,
    model: str,
    watching: Watching = NOBODY,
) -> Compared:
    """Return what a model's planned spec would have done on history, beside the one that is applied, if one is.

    Raises:
        NotFound: there is no such file.
        Rejected: nothing can be said of the planned spec; it says why.
    """
    project = Project.of(planned, model)
    rows = history.history(project, read(project, files, watching=watching))
    with opened(shared=wishes.abreast) as shelf:
        found = _lived(project, planned, rows, wishes, watching, shelf)
        if not any(isinstance(each, Model) and each.name == model for each in applied):
            return Compared(found)
        asked = replace(wishes, from_ms=found.from_ms, strategies=BESIDE)
        try:
            other = Project.of(applied, model)
            if _same_history(project, other):
                return Compared(found, _lived(other, applied, rows, asked, watching, shelf))
            rows = history.history(other, read(other, files, watching=watching))
            return Compared(found, live(other, applied, rows, asked, watching))
        except Rejected as error:
            return Compared(found, fault=str(error))


def _same_history(left: Project, right: Project) -> bool:
    """Whether two projects make the same rows of the same files."""
    one, other = left.model.spec, right.model.spec
    return (left.features, left.sources, left.views) == (right.features, right.sources, right.views) and (
        one.source, one.label, one.groups
    ) == (other.source, other.label, other.groups)  # fmt: skip


def live(
    project: Project, resources: Sequence[Resource], rows: History, wishes: Wishes, watching: Watching
) -> Backtest:
    """Return what a project's model would have done on history.

    Raises:
        Rejected: nothing can be said by it; it says why.
    """
    with opened(shared=wishes.abreast) as shelf:
        return _lived(project, resources, rows, wishes, watching, shelf)


def _lived(
    project: Project,
    resources: Sequence[Resource],
    rows: History,
    wishes: Wishes,
    watching: Watching,
    shelf: Shelf,
) -> Backtest:
    tests = [each for each in resources if isinstance(each, ModelTest)]
    return strategies.run(project, rows, wishes, tests=tests, shelf=shelf, watching=watching)


def read(
    project: Project,
    files: Sequence[str],
    *,
    format: str = "",
    encoding: str = "utf-8",
    reading: Mapping[str, Any] | None = None,
    watching: Watching = NOBODY,
) -> dict[str, Events]:
    """Return the events of each source that a model leans on.

    Raises:
        NotFound: there is no such file.
        Rejected: a file cannot be read, or no file holds a source's events.
    """
    found = _files(project, files, format, encoding)
    return {
        name: history.events(
            project.sources[name],
            found[name],
            project.fields(name),
            reading or {},
            lambda rows, name=name: watching.on_rows(name, rows),  # type: ignore[misc]
        )
        for name in project.sources
    }


def _files(project: Project, files: Sequence[str], format: str, encoding: str) -> dict[str, list[File]]:
    """Return the files of each source: those that are named for it, or those whose columns are all that it must have."""
    found: dict[str, list[File]] = {name: [] for name in project.sources}
    for text in files:
        name, equals, path = text.partition("=")
        if equals and name in found:
            found[name].append(File(path, format, encoding=encoding))
            continue
        file = File(text, format, encoding=encoding)
        if file.is_stdin:
            raise Rejected(
                "history on standard input cannot be read twice: write it to a file, and name that"
            )
        first = next(islice(file.rows(), 1), None)
        if first is None:
            raise Rejected(f"{text} is empty: name a file with history in it")
        for source, held in found.items():
            if len(found) == 1 or history.covers(project.sources[source], first, project):
                held.append(file)
    for source, held in found.items():
        if not held:
            spec = project.sources[source].spec
            fields = ", ".join(sorted(project.fields(source) | {spec.event_time}))
            made = (
                f", which are predictions of {spec.predictions_of!r} and are not made here"
                if spec.predictions_of
                else ""
            )
            raise Rejected(
                f"no file has the columns of source {source!r} ({fields}){made}: name its file with --data {source}=FILE"
            )
    return found
