"""`trimtab ingest`."""

import asyncio
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import chain, islice
from pathlib import Path
from typing import Annotated, Any
from uuid import uuid4

import typer
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn
from trimtab_core.contract import Contract, Reason, ReasonCode, compile_contract
from trimtab_core.durations import parse_duration
from trimtab_core.specs import Source
from trimtab_core.timestamps import EARLIEST_MS, LATEST_MS, NOT_A_TIME, parse_timestamp, zone
from trimtab_runtime.clock import SystemClock
from trimtab_runtime.errors import Rejected
from trimtab_stack.locks import locked

from trimtab.cli.session import HOME, Directory, Json, ask, console, environ, print_json, show, wanted
from trimtab.client import MOST_ROWS, Trimtab
from trimtab.files import BadFile, File
from trimtab.ingest import Arrived, Job, Ready, Sending, TimeOf, ready, refusals
from trimtab.rawlog import RawLog
from trimtab.typed import Reading, Typing

_SHOWN = 5
aside = Console(stderr=True)
Strings = list[str]
# How files are read, for every command that takes some.
SourceName = Annotated[str, typer.Argument(help="The source that the rows are of, as it was applied.")]
Files = Annotated[
    Strings,
    typer.Argument(help="CSV, JSONL or Parquet, the first two also .gz; - is JSONL on standard input."),
]
Format = Annotated[str, typer.Option(help="csv, jsonl or parquet, where the file's name does not say it.")]
Map = Annotated[
    Strings,
    typer.Option(help="COLUMN=FIELD, where names differ; A+B=FIELD puts a space between two columns."),
]
TimeFormat = Annotated[
    Strings,
    typer.Option(
        help="How times are written, if not in ISO 8601: as for strptime, like '%d/%m/%Y %H:%M', or s for "
        "seconds since 1970."
    ),
]
Null = Annotated[
    Strings, typer.Option(help="What means null, like NA or --null=-200; FIELD=TEXT for one field only.")
]
RowId = Annotated[str, typer.Option(help="A field to put an id of each row in, for a file that has none.")]
Encoding = Annotated[str, typer.Option(help="Of a CSV file.")]
Limit = Annotated[int, typer.Option(min=0, help="Only the first rows of each file; 0 for all.")]
Patience = Annotated[str, typer.Option(help="How long an outage is waited for.")]
Anyway = Annotated[
    bool,
    typer.Option("--anyway", help="Send also what would be refused to the last row at the beginning."),
]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Send nothing; say what the contract would refuse.")]


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """What was asked for, the files aside."""

    reading: dict[str, Any]
    arrived: Arrived
    speed: float | None
    limit: int | None
    patience_s: float
    anyway: bool
    again: bool = False
    stated: str = ""
    """The field that says when a row arrived, if one does."""


def add_to(app: typer.Typer) -> None:
    """Add the command to `app`."""
    app.command()(ingest)


def ingest(
    source: SourceName,
    files: Files,
    format: Format = "",
    map: Map = [],  # noqa: B006 - typer's form of a list that may be given
    time_format: TimeFormat = [],  # noqa: B006
    null: Null = [],  # noqa: B006
    row_id: RowId = "",
    encoding: Encoding = "utf-8",
    arrived: Annotated[
        str,
        typer.Option(
            help="When the rows arrived: now, or event_time for history. A row that arrives later than the source's "
            "lateness is refused, as history is that arrives now; and what arrived now is in no training set that ends "
            "before now."
        ),
    ] = "",
    speed: Annotated[
        str,
        typer.Option(
            help="Seconds of event time a second, for rows in order of event time (60: an hour a minute); a row that "
            "goes back is sent at once."
        ),
    ] = "max",
    limit: Limit = 0,
    patience: Patience = "5m",
    anyway: Anyway = False,
    again: Annotated[bool, typer.Option("--again", help="Send anew what has been sent before.")] = False,
    dry_run: DryRun = False,
    directory: Directory = HOME,
    as_json: Json = False,
) -> None:
    """Send the rows of FILES to SOURCE, each once; the contract judges them, and what it refuses is a dead letter.

    After Ctrl-C, a crash or an outage, the same command goes on where Kafka's acknowledgements ended.
    """
    options = Options(
        reading=reading(map, time_format, null, row_id),
        arrived=_arrivals(arrived),
        speed=_speed(speed),
        limit=limit or None,
        patience_s=patience_s(patience),
        anyway=anyway or arrived == "now",
        again=again,
    )
    opened = [File(path, format, encoding=encoding) for path in files]
    if dry_run:
        show(ask(directory, lambda it: judge(it, source, opened, options)), as_json=as_json)
        return
    [servers] = wanted(environ(directory), "TRIMTAB_KAFKA_SERVERS")
    log, jobs = RawLog(servers), directory / "ingest"
    try:
        done = ask(directory, lambda it: _ingest(it, log, source, opened, options, jobs))
    except BaseException as error:
        if not isinstance(error, Rejected) and not any(file.is_stdin for file in opened):
            aside.print("The same command again goes on where this one ended.")
        raise
    if as_json:
        print_json(done)
    else:
        show(done, as_json=False)
        console.print(
            f"What the contract refused, if anything: trimtab deadletter list --source {source}",
            soft_wrap=True,
        )
    if any(each["too large"] for each in done):
        raise typer.Exit(1)


async def _ingest(
    trimtab: Trimtab, log: RawLog, name: str, files: Sequence[File], options: Options, jobs: Path
) -> list[dict[str, Any]]:
    spec = (await trimtab.source(name)).spec
    contract, done = compile_contract(spec), []
    for file in files:
        typing = Typing(spec, Reading(**options.reading, decimal_comma=file.decimal_comma))
        with ExitStack() as stack:
            stack.callback(file.stop)
            if file.is_stdin:
                job = Job(name, uuid4().hex)
            else:
                with aside.status(f"taking the digest of {file.path}"):
                    digest = await asyncio.to_thread(file.digest)
                path = jobs / f"{name}-{digest[:16]}.json"
                if not stack.enter_context(locked(path.with_suffix(".lock"), within=0.0)):
                    raise Rejected(f"{file.path} is being sent to {name} by another command: wait for that")
                if backfilled(jobs, name, digest).exists() and not options.again:
                    raise Rejected(
                        f"{file.path} was taken to the archive of {name} by `trimtab backfill`: leave it at that, or say "
                        "--again to have its rows twice"
                    )
                job = Job(name, digest, path=path) if options.again else Job.read(path, name, digest)
            done.append(await _send(trimtab, log, job, file, typing, contract, options))
    return done


def backfilled(jobs: Path, source: str, digest: str) -> Path:
    """Return where it is kept how far a backfill of a file has come."""
    return jobs / f"backfill-{source}-{digest[:16]}.json"


async def _send(
    trimtab: Trimtab, log: RawLog, job: Job, file: File, typing: Typing, contract: Contract, options: Options
) -> dict[str, Any]:
    before = job.acknowledged
    rows = _ready(file, typing, contract, job, options)
    if not file.is_stdin:
        first = list(islice(rows, MOST_ROWS))
        rehearse(file, contract, first, options)
        rows = chain(first, rows)
    with Bar(file, job.acknowledged, options.limit) as bar:
        sending = Sending(
            trimtab,
            log,
            job,
            arrived=options.arrived,
            speed=options.speed,
            idle=file.idle,
            patience_s=options.patience_s,
            on_progress=lambda done: bar.move(job.acknowledged, done.waits),
        )
        try:
            await sending.send(rows)
        except BadFile as error:
            error.add_note(
                f"Rows 1 to {job.acknowledged:,} are in {job.source}. A mended file is another one: send the rest alone."
            )
            raise
    return {
        "file": file.path,
        "sent before": before,
        "found in doubt": sending.progress.found,
        "sent": sending.progress.sent,
        "acknowledged": job.acknowledged - len(job.too_large),
        "too large": ", ".join(f"row {number}" for number in job.too_large),
    }


def _ready(file: File, typing: Typing, contract: Contract, job: Job, options: Options) -> Iterator[Ready]:
    rows = islice(file.rows(), options.limit)
    return ready(rows, typing, contract.event_time_ms, job, after=job.acknowledged)


def stated_by(source: Source, name: str) -> TimeOf:
    """Return what reads a row's arrival out of the field that says it, if one does."""
    if not name:
        return lambda _: NOT_A_TIME
    field = source.spec.fields.get(name)
    if field is None or field.type != "timestamp":
        known = ", ".join(each for each, held in source.spec.fields.items() if held.type == "timestamp")
        raise Rejected(f"--arrived {name!r} is no timestamp of source {source.name!r}: name one of {known}")
    return lambda fields: parse_timestamp(fields.get(name), zone(field.timezone))


def rehearse(file: File, contract: Contract, first: Sequence[Ready], options: Options) -> None:
    """Say what the contract will refuse of the first rows, and stop if that is all of them."""
    refused = [reasons for reasons in refusals(contract, first, options.arrived) if reasons]
    if not refused:
        return
    why = _told(refused)
    if len(refused) < len(first) or options.anyway:
        said = f"{file.path}: {len(refused):,} of the next {len(first):,} rows will be dead letters:"
        aside.print("\n  ".join([said, *why]), soft_wrap=True, highlight=False, markup=False)
        return
    remedy = "mend that, or say --anyway"
    if any(reason.code is ReasonCode.LATE for reason in refused[0]):
        remedy = "for history say --arrived event_time, for dead letters --anyway"
    raise Rejected(
        "\n  ".join([f"{file.path}: each of the next {len(first):,} rows would be refused: {remedy}", *why])
    )


async def judge(trimtab: Trimtab, name: str, files: Sequence[File], options: Options) -> list[dict[str, Any]]:
    """Return what the contract would say of all rows."""
    source, found = await trimtab.source(name), []
    stated_ms = stated_by(source, options.stated)
    for file in files:
        typing = Typing(source.spec, Reading(**options.reading, decimal_comma=file.decimal_comma))
        contract = compile_contract(source.spec)
        found.append(
            judged(file, typing, contract, options.arrived, limit=options.limit, stated_ms=stated_ms)
        )
    return found


def judged(
    file: File,
    typing: Typing,
    contract: Contract,
    arrived: Arrived,
    *,
    limit: int | None,
    stated_ms: TimeOf = lambda _: NOT_A_TIME,
) -> dict[str, Any]:
    """Return how many rows of a file a contract lets in, and why not the others."""
    job = Job("", "")
    rows = ready(
        islice(file.rows(), limit), typing, contract.event_time_ms, job, after=0, stated_ms=stated_ms
    )
    count, refused = 0, 0
    kinds: Counter[str] = Counter()
    while chunk := list(islice(rows, MOST_ROWS)):
        reasons = [each for each in refusals(contract, chunk, arrived) if each]
        count, refused = count + len(chunk), refused + len(reasons)
        kinds.update(f"{reason.code} {reason.field}".strip() for each in reasons for reason in each)
    return {
        "file": file.path,
        "rows": count,
        "refused": refused,
        "why": ", ".join(f"{number:,} {kind}" for kind, number in kinds.most_common()),
        "too large": len(job.too_large),
    }


def _told(refused: Sequence[Sequence[Reason]]) -> list[str]:
    """Return the most frequent reasons, each with an example."""
    counts: Counter[tuple[str, str]] = Counter()
    examples: dict[tuple[str, str], str] = {}
    for reason in chain.from_iterable(refused):
        counts[reason.code, reason.field] += 1
        examples.setdefault((reason.code, reason.field), reason.message)
    return [f"{number:,} {kind[0]}, like: {examples[kind]}" for kind, number in counts.most_common(_SHOWN)]


class Bar:
    """The bar of one file, and what is waited for."""

    def __init__(self, file: File, before: int, limit: int | None) -> None:
        self._file = file
        self._limit = limit
        self._began = time.monotonic()
        self._before = before
        self._progress = Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            TaskProgressColumn(),
            TextColumn(
                "{task.fields[rows]:,} rows, {task.fields[pace]:,.0f}/s {task.fields[waits]}", markup=False
            ),
            console=aside,
        )
        total = limit or file.size or None
        self._task = self._progress.add_task(file.path, total=total, rows=self._before, pace=0.0, waits="")

    def __enter__(self) -> "Bar":
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()

    def move(self, rows: int, waits: str) -> None:
        """Show how far it has come, and what is waited for."""
        self._progress.update(
            self._task,
            completed=rows if self._limit else self._file.position,
            rows=rows,
            pace=(rows - self._before) / max(time.monotonic() - self._began, 0.001),
            waits=f"waits: {waits}" if waits else "",
        )


def reading(
    map: Sequence[str], time_formats: Sequence[str], nulls: Sequence[str], row_id: str
) -> dict[str, Any]:
    """Return how files are to be read, as `Reading` takes it."""
    found = {}
    for pair in map:
        column, equals, name = pair.rpartition("=")
        if not (column and equals and name):
            raise Rejected(f"--map {pair!r} is not understood: write COLUMN=FIELD")
        found[column] = name
    return {"columns": found, "time_formats": time_formats, "nulls": nulls, "row_id": row_id}


def _arrivals(text: str) -> Arrived:
    """Return what tells when a row arrived."""
    now_ms = SystemClock().now_ms
    if text in ("", "now"):
        return lambda _: now_ms()
    if text == "event_time":
        return at_event_time
    raise Rejected(f"--arrived {text!r} is not understood: write now or event_time")


def at_event_time(row: Ready) -> int:
    """Return the event time as the arrival; now for a row that has none that can be."""
    return row.event_ms if EARLIEST_MS <= row.event_ms <= LATEST_MS else SystemClock().now_ms()


def _speed(text: str) -> float | None:
    if text == "max":
        return None
    try:
        speed = float(text)
    except ValueError:
        speed = 0.0
    if not 0 < speed < float("inf"):
        raise Rejected(f"--speed {text!r} is not understood: write a number over 0, or max")
    return speed


def patience_s(text: str) -> float:
    """Return the seconds of --patience."""
    try:
        return parse_duration(text) / 1000
    except ValueError as error:
        raise Rejected(f"--patience {error}") from error
