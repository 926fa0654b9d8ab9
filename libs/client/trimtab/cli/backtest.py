"""`trimtab backtest`."""

import os
import signal
import sys
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from threading import current_thread, main_thread
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn
from trimtab_core.durations import parse_duration
from trimtab_core.features import views_named
from trimtab_core.schedules import checked_schedule
from trimtab_core.specs import KINDS, FeatureView, Model, ModelTest, Resource, read_back
from trimtab_runtime.clock import iso
from trimtab_runtime.errors import Rejected

from trimtab.cli.ingest import Encoding, Format, Map, Null, RowId, TimeFormat, reading
from trimtab.cli.session import Json, console, moment, print_json, show
from trimtab.files import File
from trimtab.project import load

if TYPE_CHECKING:
    from trimtab.backtest.living import Watching
    from trimtab.backtest.running import Compared
    from trimtab.backtest.strategies import Backtest, Wishes

_aside = Console(stderr=True)
Data = Annotated[
    list[str],
    typer.Option(
        "--data",
        help="History: CSV, JSONL or Parquet. SOURCE=FILE where its columns do not say whose events it holds; several may be given.",
    ),
]
From = Annotated[
    str,
    typer.Option("--from", help="From when on rows are answered; the first version is trained as of then."),
]
Step = Annotated[
    str, typer.Option(help="Lockstep of event time: a candidate answers from the step after it was ordered.")
]
_WHOLE = 9
"""Columns of the table of strategies, none of which is broken: in 80 characters they have room."""
TASKS = ("regression", "binary", "multiclass")


def add_to(app: typer.Typer) -> None:
    """Add the command to `app`."""
    app.command()(backtest)


def backtest(
    project: Annotated[
        Path | None, typer.Argument(help="A YAML file or a folder of specs; guessed from --label without it.")
    ] = None,
    data: Data = [],  # noqa: B006 - typer's form of a list that may be given
    model: Annotated[str, typer.Option(help="Which model of the project, if it has several.")] = "",
    label: Annotated[str, typer.Option(help="Without a project: the column to predict.")] = "",
    time: Annotated[
        str,
        typer.Option(
            help="Without a project: the column of times, or of numbers that rise; else the first of times, or the file's order."
        ),
    ] = "",
    task: Annotated[str, typer.Option(help=f"Without a project: {', '.join(TASKS)}.")] = "",
    from_: From = "",
    step: Step = "",
    schedule: Annotated[
        str, typer.Option(help="Of `scheduled`, as cron writes it; the spec's, or about monthly.")
    ] = "",
    every: Annotated[
        str, typer.Option(help="How often `always` retrains, such as 7d; 30 times in all by default.")
    ] = "",
    output: Annotated[
        Path | None, typer.Option("-o", "--output", help="Write a page with charts there: .html or .md.")
    ] = None,
    format: Format = "",
    map: Map = [],  # noqa: B006
    time_format: TimeFormat = [],  # noqa: B006
    null: Null = [],  # noqa: B006
    row_id: RowId = "",
    encoding: Encoding = "utf-8",
    as_json: Json = False,
) -> None:
    """Say what a model would have done on history: never retrained, by schedule, on drift and always, and what each cost.

    No Kafka is needed: the loop's own decisions are taken in this process. Without PROJECT, one is guessed for --label.
    """
    if not data:
        raise Rejected("there is no history to live through: name a file with --data")
    if output is not None and output.suffix not in (".html", ".md"):
        raise Rejected(
            f"--output {output} ends with neither .html nor .md: name a file of one of these forms"
        )
    with _needs_training():
        from trimtab.backtest import running, telling
    asked = wishes(from_, step, schedule, every)
    how = reading(map, time_format, null, row_id)
    if project is None:
        file = _alone(data, label, task, format, encoding)
        if row_id or map or null or time_format:
            raise Rejected(
                "--map, --null, --time-format and --row-id say how a project's fields are read: name the project"
            )
        with progress() as watching:
            found = running.guessed(file, asked, label=label, time=time, task=task, watching=watching)
    else:
        for option, value in (("--label", label), ("--time", time), ("--task", task)):
            if value:
                raise Rejected(
                    f"{option} {value!r} is said by the project's specs: leave it out, or the project"
                )
        resources = load(project).resources
        with progress() as watching:
            found = running.backtest(
                resources,
                data,
                asked,
                model=model,
                format=format,
                encoding=encoding,
                reading=how,
                watching=watching,
            )
    written = telling.page(found).write(output) if output is not None else []
    if as_json:
        print_json(telling.document(found))
        return
    tell(found)
    for path in written:
        console.print(f"wrote {path}", soft_wrap=True, highlight=False, markup=False)


def tell(found: "Backtest") -> None:
    """Print a backtest for people."""
    from trimtab.backtest import telling

    show(telling.rows(found), as_json=False, whole=_WHOLE)
    if alarms := telling.alarms(found):
        show([{name: row[name] for name in list(row)[:5]} for row in alarms], as_json=False)
    for sentence in telling.sentences(found):
        console.print(sentence, highlight=False, markup=False)


def planned(
    held: Mapping[str, Any], resources: Sequence[Resource], data: list[str], from_: str, step: str
) -> tuple[dict[str, "Compared"], str]:
    """Return what the models of a plan would have done on history, by name, and a Markdown section for each.

    `held` are the documents that are applied, by kind/name. A model is left out that nothing changes for.
    """
    with _needs_training():
        from trimtab.backtest import running, telling
    applied = {
        key: read_back(key.partition("/")[0], document)[0]
        for key, document in held.items()
        if key.partition("/")[0] in KINDS
    }
    whole = applied | {each.key: each for each in resources}
    models = [each for each in resources if isinstance(each, Model)]
    found = {}
    for model in models:
        if all(whole[key] == applied.get(key) for key in _leans_on(model, whole)):
            continue
        with progress() as watching:
            found[model.name] = running.compared(
                list(whole.values()), list(applied.values()), data, wishes(from_, step), model=model.name, watching=watching
            )  # fmt: skip
    return found, "".join(telling.report(each.planned, each.applied, each.fault) for each in found.values())


def _leans_on(model: Model, whole: Mapping[str, Resource]) -> list[str]:
    """Return what a model's decisions follow from, by kind/name: itself, its sources and views."""
    spec = model.spec
    views = {f"FeatureView/{name}" for text in spec.features for name in views_named(text)} & whole.keys()
    sources = [spec.source, spec.label.source]
    sources += [view.spec.source for key in views if isinstance(view := whole[key], FeatureView)]
    tests = [
        key for key, each in whole.items() if isinstance(each, ModelTest) and each.spec.model == model.name
    ]
    return [model.key, *views, *(f"Source/{name}" for name in sources if f"Source/{name}" in whole), *tests]


def tell_compared(each: "Compared") -> None:
    """Print a planned spec's backtest, beside that of the applied one, for people."""
    from trimtab.backtest import telling

    console.print(f"backtest of {each.planned.model.name}, as planned:", markup=False, highlight=False)
    tell(each.planned)
    if each.applied is not None:
        console.print("as applied now:")
        show(telling.rows(each.applied), as_json=False, whole=_WHOLE)
    elif each.fault:
        console.print(f"what is applied now could not be lived beside it: {each.fault}", markup=False)


def wishes(from_: str, step: str, schedule: str = "", every: str = "") -> "Wishes":
    """Return what options ask for.

    Raises:
        Rejected: one is not of its form.
    """
    from trimtab.backtest.strategies import Wishes

    if schedule:
        try:
            checked_schedule(schedule)
        except ValueError as error:
            raise Rejected(f"--schedule {error}") from error
    return Wishes(
        from_ms=moment("--from", from_) if from_ else None,
        step_ms=_lasting("--step", step) if step else None,
        schedule=schedule,
        every_ms=_lasting("--every", every) if every else None,
        abreast=(os.cpu_count() or 1) > 1,
    )


def _lasting(option: str, text: str) -> int:
    try:
        return parse_duration(text)
    except ValueError as error:
        raise Rejected(f"{option} {error}") from error


def _alone(data: list[str], label: str, task: str, format: str, encoding: str) -> File:
    if not label:
        raise Rejected(
            "without a project, the column to predict has to be named: say --label COLUMN, or name the project"
        )
    if len(data) > 1:
        raise Rejected(
            f"without a project there is one file, and {len(data)} are named: write a project (trimtab init --from FILE)"
        )
    if task and task not in TASKS:
        raise Rejected(f"--task {task!r} is none: write one of {', '.join(TASKS)}")
    file = File(data[0], format, encoding=encoding)
    if file.is_stdin:
        raise Rejected("history on standard input cannot be read twice: write it to a file, and name that")
    return file


@contextmanager
def _needs_training() -> Iterator[None]:
    try:
        yield
    except ModuleNotFoundError as error:
        if not (error.name or "").startswith(("trimtab_training", "sklearn", "onnx")):
            raise
        raise Rejected(
            f"a backtest fits models, and {error.name} is not installed: pip install 'trimtab[backtest]'"
        ) from error


@contextmanager
def progress() -> Iterator["Watching"]:
    """Show how far a backtest is, on standard error."""
    from trimtab.backtest.living import Watching

    with _tidy_when_told_to_end(), Progress(
        TextColumn("{task.description}", markup=False), BarColumn(), TextColumn("{task.fields[said]}", markup=False),
        TextColumn("{task.fields[fits]}", markup=False), TimeElapsedColumn(), console=_aside, transient=True,
        disable=not _aside.is_terminal,
    ) as bar:  # fmt: skip
        shown = _Shown(bar)
        yield Watching(shown.rows, shown.fit, shown.time)


@contextmanager
def _tidy_when_told_to_end() -> Iterator[None]:
    """Let SIGTERM, as `timeout` and CI send it, end the command as Ctrl-C does: with its processes and its files."""
    if current_thread() is not main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, _end)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _end(number: int, _: object) -> NoReturn:
    signal.signal(number, signal.SIG_IGN)  # or a second one would break off the tidying
    sys.exit(128 + number)


class _Shown:
    """The lines of a progress: one for each source that is read, and for each strategy."""

    def __init__(self, bar: Progress) -> None:
        self._bar = bar
        self._lines: dict[str, TaskID] = {}
        self._counts: Counter[str] = Counter()

    def rows(self, source: str, count: int) -> None:
        """Show that more rows of a source were read."""
        what = f"reading {source}"
        self._counts[what] += count
        self._bar.update(self._line(what), said=f"{self._counts[what]:,} rows")

    def fit(self, strategy: str) -> None:
        """Show that a fit was made."""
        what = f"living {strategy}" if strategy else "training the first version"
        self._counts[what] += 1
        self._bar.update(self._line(what), fits=f"{self._counts[what]} fits")

    def time(self, strategy: str, at_ms: int, share: float) -> None:
        """Show how far a strategy's event time is."""
        self._bar.update(self._line(f"living {strategy}"), said=iso(at_ms)[:10], total=1.0, completed=share)

    def _line(self, what: str) -> TaskID:
        if what not in self._lines:
            self._lines[what] = self._bar.add_task(what, total=None, said="", fits="")
        return self._lines[what]
