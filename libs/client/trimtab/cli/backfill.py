"""`trimtab backfill`."""

import asyncio
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import chain, islice
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from trimtab_core.contract import compile_contract
from trimtab_core.specs import Source
from trimtab_core.timestamps import EARLIEST_MS, LATEST_MS, NOT_A_TIME
from trimtab_runtime.clock import SystemClock
from trimtab_runtime.errors import Rejected
from trimtab_stack.locks import locked

from trimtab.backfill import Filling, begin_anew, come
from trimtab.cli.ingest import (
    Anyway,
    Bar,
    DryRun,
    Encoding,
    Files,
    Format,
    Limit,
    Map,
    Null,
    Options,
    Patience,
    RowId,
    SourceName,
    TimeFormat,
    backfilled,
    judge,
    patience_s,
    reading,
    rehearse,
    stated_by,
)
from trimtab.cli.session import HOME, Directory, Json, actor, ask, console, environ, print_json, show, wanted
from trimtab.client import MOST_ROWS, Trimtab
from trimtab.files import STDIN, BadFile, File
from trimtab.ingest import Job, Ready, Sending, TimeOf, ready
from trimtab.rawlog import RawLog
from trimtab.typed import Reading, Typing

_aside = Console(stderr=True)


def add_to(app: typer.Typer) -> None:
    """Add the command to `app`."""
    app.command()(backfill)


@dataclass(frozen=True, slots=True)
class Place:
    """Where a command sends rows from: Kafka, and the folder where it keeps how far it has come."""

    servers: str
    jobs: Path


def backfill(
    source: SourceName,
    files: Files,
    format: Format = "",
    map: Map = [],  # noqa: B006 - typer's form of a list that may be given
    time_format: TimeFormat = [],  # noqa: B006
    null: Null = [],  # noqa: B006
    row_id: RowId = "",
    encoding: Encoding = "utf-8",
    arrived: Annotated[
        str, typer.Option(help="The field that says when a row arrived; by default it is the event time.")
    ] = "",
    limit: Limit = 0,
    patience: Patience = "5m",
    anyway: Anyway = False,
    dry_run: DryRun = False,
    directory: Directory = HOME,
    as_json: Json = False,
) -> None:
    """Take the rows of FILES, which are history, straight to the archive of SOURCE, each once; its views begin anew with them.

    The contract judges them as it does events, and what it refuses is a dead letter. After Ctrl-C, a crash or an outage,
    the same command goes on, and once more adds nothing.
    """
    options = Options(
        reading=reading(map, time_format, null, row_id),
        arrived=arrived_at,
        speed=None,
        limit=limit or None,
        patience_s=patience_s(patience),
        anyway=anyway,
        stated=arrived,
    )
    if STDIN in files:
        raise Rejected("standard input cannot be gone on with: write it to a file first, and name that")
    opened = [File(path, format, encoding=encoding) for path in files]
    if dry_run:
        show(ask(directory, lambda it: judge(it, source, opened, options)), as_json=as_json)
        return
    [servers] = wanted(environ(directory), "TRIMTAB_KAFKA_SERVERS")
    place = Place(servers, directory / "ingest")
    try:
        done, views = ask(directory, lambda it: _backfill(it, source, opened, options, place))
    except BaseException as error:
        if not isinstance(error, Rejected):
            _aside.print("The same command again goes on where this one ended.")
        raise
    if as_json:
        print_json({"files": done, "views": views})
    else:
        _tell(source, done, views)
    if any(each["too large"] for each in done):
        raise typer.Exit(1)


def _tell(source: str, done: Sequence[dict[str, Any]], views: Sequence[str]) -> None:
    show(done, as_json=False)
    if any(each["refused"] for each in done):
        console.print(f"What was refused: trimtab deadletter list --source {source}", soft_wrap=True)
    if views:
        console.print(
            f"{', '.join(views)} begin anew with what the archive holds, and answer as before until they have.",
            soft_wrap=True,
        )


async def _backfill(
    trimtab: Trimtab, name: str, files: Sequence[File], options: Options, place: Place
) -> tuple[list[dict[str, Any]], list[str]]:
    source = await trimtab.source(name)
    stated_ms, done, paths = stated_by(source, options.stated), [], []
    with ExitStack() as stack:
        for file in files:
            stack.callback(file.stop)
            with _aside.status(f"taking the digest of {file.path}"):
                digest = await asyncio.to_thread(file.digest)
            path = backfilled(place.jobs, name, digest)
            paths.append(path.with_suffix(".done"))
            if not stack.enter_context(locked(path.with_suffix(".lock"), within=0.0)):
                raise Rejected(
                    f"{file.path} is being taken to the archive of {name} by another command: wait for that"
                )
            job = Job.read(path, name, digest)
            done.append(await _fill(trimtab, source, job, file, options, stated_ms, place))
        if not any(each["archived"] for each in done) and all(path.exists() for path in paths):
            return done, []
        views = await begin_anew(trimtab, source, place.servers, actor=actor())
        for path in paths:
            path.touch()
        return done, views


async def _fill(
    trimtab: Trimtab,
    source: Source,
    job: Job,
    file: File,
    options: Options,
    stated_ms: TimeOf,
    place: Place,
) -> dict[str, Any]:
    before = await come(trimtab, source.name, job.digest)
    contract = compile_contract(source.spec)
    typing = Typing(source.spec, Reading(**options.reading, decimal_comma=file.decimal_comma))
    rows = ready(
        islice(file.rows(), options.limit),
        typing,
        contract.event_time_ms,
        job,
        after=before,
        stated_ms=stated_ms,
    )
    first = list(islice(rows, MOST_ROWS))
    rehearse(file, contract, first, options)
    with Bar(file, before, options.limit) as bar:
        refused = Sending(
            trimtab,
            RawLog(place.servers),
            job,
            arrived=options.arrived,
            patience_s=options.patience_s,
            on_progress=lambda done: bar.move(filling.progress.until, done.waits),
        )
        filling = Filling(
            trimtab,
            refused,
            job,
            until=before,
            arrived=options.arrived,
            patience_s=options.patience_s,
            on_progress=lambda done: bar.move(done.until, done.waits),
        )
        try:
            await filling.fill(chain(first, rows))
        except BadFile as error:
            error.add_note(
                f"Rows 1 to {filling.progress.until:,} are in the archive of {source.name}. A mended file is another "
                "one: take the rest alone."
            )
            raise
    job.save()
    found = filling.progress
    return {
        "file": file.path,
        "taken before": before,
        "archived": found.archived,
        "repeats": found.repeats,
        "refused": found.letters,
        "why": ", ".join(f"{number:,} {kind}" for kind, number in found.refused.most_common()),
        "too large": ", ".join(f"row {number}" for number in job.too_large),
    }


def arrived_at(row: Ready) -> int:
    """Return when a row arrived: as it states, or else when it happened; never later than now, for that is no history."""
    now_ms = SystemClock().now_ms()
    stated = row.event_ms if row.stated_ms == NOT_A_TIME else row.stated_ms
    return min(stated, now_ms) if EARLIEST_MS <= stated <= LATEST_MS else now_ms
