"""The main story: the world changes, and the live model follows; what it was served is what it was trained on."""

import asyncio
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
from trimtab import project
from trimtab.backtest.running import backtest
from trimtab.backtest.strategies import Wishes
from trimtab_contracts.monitoring.v1.monitoring_pb2 import Loop, Verdict
from trimtab_monitoring.featurestore import FeatureStore
from trimtab_monitoring.news import SOURCE
from trimtab_monitoring.store import PostgresStore
from trimtab_monitoring.usecases.skew import Skews
from trimtab_runtime import rpc
from trimtab_runtime.clock import SystemClock, from_timestamp, parse_iso
from trimtab_runtime.postgres import open_pool
from trimtab_runtime.specbook import SpecBook
from trimtab_runtime.testing import eventually
from trimtab_stack.stack import Stack

pytestmark = [pytest.mark.real, pytest.mark.timeout(300)]

HOUR_MS, DAY_MS = 3_600_000, 86_400_000


async def test_drift_becomes_a_better_model(
    make_world: Callable[..., Any], whole: Stack, spans: Callable[..., Any], tmp_path: Path
) -> None:
    async with make_world("becomes") as world:
        await world.backfill(48)
        first = await world.first_version()
        assert first.state == "live", first.outcome

        quiet = await world.live(24)
        assert [loop for loop in quiet if loop.HasField("drift")] == []

        world.slope = 5.0
        loops = await world.live(
            96, until=lambda loops: any(loop.HasField("drift") and loop.state == "live" for loop in loops)
        )

        won = next(loop for loop in loops if loop.HasField("drift") and loop.state == "live")
        assert won.drift.kind in ("performance", "data")
        assert won.verdict.mean_difference > 0
        assert won.cost.cpu_seconds > 0
        assert (won.cost.rows, won.cost.attempts) == (await rows_fitted_to(world, won), 1)
        deployment = await world.trimtab.deployment(world.name)
        assert deployment.champion.number == won.version
        assert world.replay.tally.failed_requests == 0, world.replay.tally.failures

        await assert_a_backtest_decides_alike(world, loops, tmp_path)
        await assert_no_skew(world)
        await assert_skew_is_told(world, whole.environ)

        async def report_is_written() -> bool:
            return await asyncio.to_thread(Path(won.drift.report).exists)

        await eventually(report_is_written, what="the report that the drift event names")

        async def is_told() -> bool:
            held = await world.trimtab.alerts(world.name)
            return won.drift.summary in {each.alert.sentence for each in held}

        await eventually(is_told, what="the alert of the drift")
        services = {span["service"] for span in spans(won.trace_id)}
        assert {"monitoring", "trainer", "registry", "serving"} <= services


async def rows_fitted_to(world: Any, loop: Loop) -> int:
    (run,) = [run for run in await world.trimtab.runs(world.name) if run.event.run_id == loop.run_id]
    rows: int = run.event.candidate.rows
    return rows


async def assert_a_backtest_decides_alike(world: Any, loops: Sequence[Loop], folder: Path) -> None:
    """Live the same rows again in this process, and hold every drift, command, verdict and outcome against the ledger's."""
    files = []
    for source, payloads in world.sent.items():
        (folder / f"{source}.jsonl").write_bytes(b"\n".join(payloads))
        files.append(f"{source}={folder / source}.jsonl")
    as_of = {
        run.event.command_id: from_timestamp(run.event.as_of) for run in await world.trimtab.runs(world.name)
    }
    drifted = [loop for loop in loops if loop.HasField("drift")]
    (first,) = [as_of[loop.command_id] for loop in loops if not loop.HasField("drift")]
    wishes = Wishes(strategies=("on_drift",), from_ms=first, step_ms=HOUR_MS)

    specs = project.parse(world.specs).resources
    life = (await asyncio.to_thread(backtest, specs, files, wishes)).lives["on_drift"]

    episodes = {loop.drift.episode: loop.drift for loop in drifted}.values()
    assert {
        (each.drift.episode, each.drift.kind, each.drift.at_ms, each.drift.changed_ms) for each in life.alarms
    } == {
        (each.episode, each.kind, from_timestamp(each.at), from_timestamp(each.changed_at))
        for each in episodes
    }
    commanded = [loop for loop in drifted if loop.command_id]
    assert {
        each.command_id: (each.trigger, each.as_of_ms, each.version, each.outcome) for each in life.retrains
    } == {
        each.command_id: (each.trigger, as_of[each.command_id], each.version, each.state)
        for each in commanded
    }
    assert {each.verdict.id: each.verdict.rows for each in life.retrains if each.verdict} == {
        each.verdict.id: each.verdict.rows for each in commanded if each.verdict.outcome != Verdict.ADVANCE
    }


async def assert_no_skew(world: Any) -> None:
    """Hold every prediction, every dataset and the features of now against the archive."""

    async def the_last_are_archived() -> bool:
        found = await world.trimtab.audit_skew(world.name, since_ms=world.now_ms - HOUR_MS)
        return bool(found.rows == world.per_hour)

    async def all_are_compared() -> Any:
        found = await world.trimtab.audit_skew(world.name)
        return found if found.rows == world.replay.tally.predictions else None

    # The last hour alone is asked for until it is there, for an audit recomputes all that it is asked for.
    await eventually(the_last_are_archived, what="the last hour compared")
    audit = await eventually(all_are_compared, what="every prediction of the story compared")
    assert (audit.mismatched, audit.rows_without_event, audit.rows_of_old_features) == (0, 0, 0), audit
    assert [feature.name for feature in audit.features] == ["request.x", f"{world.name}-road.y_mean_6h"]

    for run in await world.trimtab.runs(world.name):
        end_ms = from_timestamp(run.event.as_of)
        made = await world.trimtab.training_set(world.name, end_ms - 5 * DAY_MS, end_ms, as_of_ms=end_ms)
        assert made.digest == run.event.candidate.dataset_digest
        assert made.rows == made.arrow().num_rows == len(made.pandas())

    name = f"{world.name}-road.y_count_6h"
    online = await world.trimtab.features([name], {"road": ["a", "z"]}, at_ms=world.now_ms)
    assert online[f"{name}.status"].to_pylist() == ["present", "missing"]
    assert 0 < online[name][0].as_py() < 6 * world.per_hour


async def assert_skew_is_told(world: Any, environ: Mapping[str, str]) -> None:
    """Ask again for rows of the newest window with another x than their events have, and have monitoring look at it."""
    metrics = (await world.trimtab.metrics(world.name, names=["drift"], limit=1)).messages
    begin_ms, end_ms = from_timestamp(metrics[0].window_from), from_timestamp(metrics[0].window_to) + 1
    rows = [json.loads(payload) for payload in world.sent[f"{world.name}-asks"]]
    window = [row for row in rows if begin_ms <= parse_iso(row["at"]) < end_ms]
    await world.trimtab.predict(world.name, [row | {"x": row["x"] + 1} for row in window[:5]])

    async def archived() -> bool:
        found = await world.trimtab.audit_skew(world.name, since_ms=begin_ms, until_ms=end_ms)
        return bool(found.rows == len(window) + 5)

    await eventually(archived, what="the other rows in the archive")
    async with (
        open_pool(environ["TRIMTAB_POSTGRES_DSN"], SOURCE, package="trimtab_monitoring") as pool,
        rpc.channel(environ["TRIMTAB_FEATURE_STORE_ADDRESS"]) as channel,
    ):
        skews = Skews(PostgresStore(pool), SpecBook(), FeatureStore(channel), SystemClock(), every_s=0)
        assert await skews.look(world.name)

    async def told() -> list[str]:
        alerts = await world.trimtab.alerts(world.name, open_only=True)
        return [held.alert.sentence for held in alerts if held.alert.kind == "skew"]

    (sentence,) = await eventually(told, what="the alert of skew")
    share = f"{5 / (len(window) + 5):.1%} of {len(window) + 5} predictions"
    assert sentence.startswith(f"Serving saw another request.x than the archive says in {share} (5 apart,"), (
        sentence
    )
