"""Runs the demo, from an empty folder to the story told."""

import asyncio
import json
import shutil
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from rich.console import Console
from trimtab_contracts.features.v1.features_pb2 import AuditSkewResponse
from trimtab_core.contract import compile_contract
from trimtab_core.specs import FeatureView, Model, Resource, Source
from trimtab_runtime import bus
from trimtab_runtime.clock import from_timestamp, iso, parse_iso
from trimtab_runtime.errors import Rejected, Unavailable
from trimtab_stack import supervisor
from trimtab_stack.state import State

from trimtab import project
from trimtab.cli.session import addresses
from trimtab.client import Trimtab
from trimtab.demo import data
from trimtab.demo.scoreboard import Scoreboard
from trimtab.demo.story import summary, tell
from trimtab.demo.view import Month, View
from trimtab.replay import Replay, Requests, Stream, Watermarks

PROJECT = Path(__file__).parent / "project"
MODEL = "trip-minutes"
HISTORY_FROM = parse_iso("2018-01-01T05:00:00Z")
LIVE_FROM = parse_iso("2019-10-01T00:00:00Z")
STEP_MS = 43_200_000
"""The hop of the demo's views: between two boundaries no feature changes."""
_CHUNK_MS = 20 * 86_400_000


@dataclass(frozen=True, slots=True)
class World:
    """The demo's data and specs."""

    resources: Sequence[Resource]
    streams: Sequence[Stream]
    requests: Requests
    views: Sequence[tuple[str, int]]


def run(directory: Path, cache: Path, *, until_ms: int, keep: bool) -> None:
    """Run the demo in `directory`, whose former contents go; it ends by itself, and stops what it started.

    Raises:
        Unavailable: something did not come up or come to rest; it names the log.
    """
    console = Console()
    supervisor.down(directory)
    shutil.rmtree(directory, ignore_errors=True)
    with ThreadPoolExecutor() as threads, View(console) as view:
        view.phase("starting Kafka, PostgreSQL and six services; fetching the taxi trips")
        prepared = threads.submit(world, cache)
        state = supervisor.up(directory)
        try:
            asyncio.run(_live(view, state, prepared.result(), directory, until_ms))
        except Exception as error:
            error.add_note(f"The logs are in {directory / 'logs'}.")
            raise
        finally:
            if not keep:
                supervisor.down(directory)


def write(folder: Path, cache: Path) -> list[Path]:
    """Write the demo's project and its trips into `folder`, for commands such as `trimtab backtest`; return what was written.

    Raises:
        Rejected: something of the project is there already.
        Unavailable: the trips could not be fetched.
    """
    own = folder / "project"
    if own.exists():
        raise Rejected(f"{own} is there already: remove it, or name another folder")
    trips = data.trips(cache)
    shutil.copytree(PROJECT, own)
    return [own, *data.write(trips, folder)]


def world(cache: Path) -> World:
    """Fetch the demo's data into `cache`, once, and prepare it."""
    resources = project.load(PROJECT).resources
    sources = {each.name: each for each in resources if isinstance(each, Source)}
    model = next(each for each in resources if isinstance(each, Model))
    trips = data.trips(cache)
    rows = {"pickups": data.pickups(trips), "dropoffs": data.dropoffs(trips)}
    streams = [
        Stream(name, sources[name].spec.partitions, each.arrived_ms, each.keys, each.payloads)
        for name, each in rows.items()
    ]
    views = [
        (each.name, sources[each.spec.source].spec.partitions)
        for each in resources
        if isinstance(each, FeatureView)
    ]
    return World(resources, streams, _requests(model, sources[model.spec.source], rows["pickups"]), views)


def _requests(model: Model, source: Source, rows: data.Rows) -> Requests:
    """Return what an application asks: a prediction for every pickup that it could see is sound."""
    first = int(np.searchsorted(rows.arrived_ms, LIVE_FROM))
    payloads = rows.payloads[first:]
    checked = compile_contract(source.spec).check(payloads, rows.arrived_ms[first:])
    sound = [at for at, reasons in enumerate(checked.reasons) if not reasons]
    order = sorted(sound, key=lambda at: checked.event_time_ms[at])
    return Requests(
        model=model.name,
        event_time_ms=np.array([checked.event_time_ms[at] for at in order], np.int64),
        rows=[msgspec.json.decode(payloads[at]) for at in order],
        label_within_ms=model.spec.label.within,
    )


async def _live(view: View, state: State, world: World, directory: Path, until_ms: int) -> None:
    servers = state.environ["TRIMTAB_KAFKA_SERVERS"]
    model = next(each for each in world.resources if isinstance(each, Model))
    watermarks = Watermarks(servers)
    async with (
        bus.open_producer(servers, linger_ms=1) as producer,
        Trimtab.connect(addresses(state.environ)) as trimtab,
        asyncio.TaskGroup() as tasks,
    ):
        await trimtab.apply(world.resources, actor="demo")
        board = Scoreboard(servers, model.spec.label.source, model.spec.label.value)
        following = [tasks.create_task(each.follower.run()) for each in (watermarks, board)]
        replay = Replay(trimtab, producer, watermarks, world.streams, world.views, world.requests)
        await _learn_the_past(view, replay, trimtab, board)
        await _live_the_year(view, replay, trimtab, board, until_ms)
        await _end(view, replay, trimtab, board, state, directory, until_ms)
        for task in following:
            task.cancel()


async def _learn_the_past(view: View, replay: Replay, trimtab: Trimtab, board: Scoreboard) -> None:
    view.phase("backfilling January 2018 to September 2019")

    def sent(until_ms: int) -> None:
        view.screen.day, view.screen.events = iso(until_ms)[:10], replay.tally.events
        view.draw()

    await replay.backfill(HISTORY_FROM, LIVE_FROM, chunk_ms=_CHUNK_MS, on_chunk=sent)
    view.phase("training the first version")
    command = await trimtab.train(MODEL, reason="the first version", actor="demo", as_of_ms=LIVE_FROM)
    loop = await _finished(trimtab, command)
    if loop.state != "live":
        raise Unavailable(f"the first version did not go live: {loop.outcome or loop.state}")
    versions = await trimtab.versions(MODEL)
    board.compare_with(versions[0].candidate.model)


async def _finished(trimtab: Trimtab, id: str) -> Any:
    for _ in range(3600):
        loops = [loop for loop in await trimtab.loops(MODEL) if loop.id == id]
        if loops and not loops[0].open:
            return loops[0]
        await asyncio.sleep(0.05)
    raise Unavailable(f"loop {id} did not end in 180 s: see the services' logs")


async def _live_the_year(
    view: View, replay: Replay, trimtab: Trimtab, board: Scoreboard, until_ms: int
) -> None:
    view.phase("living October 2019 to September 2020")
    screen, month, began_ms = view.screen, Month(""), LIVE_FROM
    for at in range(LIVE_FROM, until_ms, STEP_MS):
        await replay.step(at, at + STEP_MS)
        if iso(at)[:7] != month.name:
            if month.name:
                view.month_ended(month)
            month, began_ms = Month(iso(at)[:7]), at
            screen.months.append(month)
        screen.day, tally = iso(at)[:10], replay.tally
        screen.events, screen.predictions, screen.failed = (
            tally.events,
            tally.predictions,
            tally.failed_requests,
        )
        await _look(view, trimtab)
        if score := board.score(began_ms, at + STEP_MS):
            month.predictions, month.as_served, month.never_retrained = (
                score.rows,
                score.as_served,
                score.never_retrained,
            )
        number = str(screen.live_version)
        if number not in month.versions.split():
            month.versions = f"{month.versions} {number}".strip()
        view.draw()
    view.month_ended(month)


async def _look(view: View, trimtab: Trimtab) -> None:
    health = await trimtab.health(MODEL)
    loops = await trimtab.loops(MODEL)
    drifted = [loop for loop in loops if loop.HasField("drift")]
    screen = view.screen
    screen.live_version = health.version
    if drifted:
        newest = drifted[-1]
        screen.loop = f"{newest.trigger} drift {iso(from_timestamp(newest.drift.at))[:10]}: {newest.state}"
    screen.drift = [
        (
            f"{metric.name} {metric.feature}".strip(),
            metric.value,
            metric.threshold if metric.HasField("threshold") else None,
        )
        for metric in health.metrics
        if metric.HasField("value")
    ]


async def _written(reports: Sequence[Path]) -> None:
    """Wait until every report that the story names can be opened."""
    for _ in range(1200):
        missing = [str(path) for path in reports if not path.exists()]
        if not missing:
            return
        await asyncio.sleep(0.05)
    raise Unavailable(f"reports were promised and not written in 60 s: {', '.join(missing)}")


async def _audited(trimtab: Trimtab, predictions: int) -> AuditSkewResponse:
    """Return the audit of all predictions, or of those that are archived half a minute after the end."""
    for _ in range(30):
        found = await trimtab.audit_skew(MODEL)
        if found.rows >= predictions:
            break
        await asyncio.sleep(1)
    return found


async def _end(
    view: View,
    replay: Replay,
    trimtab: Trimtab,
    board: Scoreboard,
    state: State,
    directory: Path,
    until_ms: int,
) -> None:
    view.phase("waiting for the last of the evidence")
    loops = await trimtab.loops(MODEL)
    await _written([Path(loop.drift.report) for loop in loops if loop.drift.report])
    view.phase("holding what was served against the archive")
    skew = await _audited(trimtab, replay.tally.predictions)
    view.phase("done")
    outcome = summary(replay.tally, board, loops, skew, (LIVE_FROM, until_ms), state.versions)
    path = directory / "summary.json"
    path.write_text(json.dumps(outcome, indent=2) + "\n")
    for line in tell(outcome, loops):
        view.say(line)
    for failure in replay.tally.failures[:3]:
        view.say(f"a request failed: {failure}")
    view.say(f"All of it is in {path}")
