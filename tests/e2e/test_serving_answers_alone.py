"""P4: with everything else down, also after a restart, serving answers with the features and tables it has.

Before that, a table changes mid-way, and what serving logged is what the archive says.
"""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from trimtab.testing import HOUR_MS
from trimtab_contracts import topics
from trimtab_runtime.clock import SystemClock, from_timestamp, iso
from trimtab_runtime.errors import Unavailable
from trimtab_runtime.follow import Follower
from trimtab_runtime.testing import eventually
from trimtab_stack.stack import Stack

pytestmark = [pytest.mark.real, pytest.mark.timeout(240)]

LANES = "alone-roads[road].lanes"
ROADS = """
---
kind: Table
metadata: {{name: alone-roads}}
spec:
  parquet: {file}
  key: road
  refresh: 1s
  fields:
    road: {{type: string}}
    lanes: {{type: integer}}
"""


async def test_serving_restarted_with_all_else_down_still_answers_features_and_tables_included(
    make_world: Callable[..., Any], tmp_path_factory: pytest.TempPathFactory
) -> None:
    directory = tmp_path_factory.mktemp("alone")
    roads, clock = directory / "roads.parquet", SystemClock()
    write(roads, {"a": 1, "b": 2, "c": 3})
    project = {"more_features": [LANES], "more_specs": ROADS.format(file=roads)}
    with Stack(directory, fsync=False) as stack:
        async with make_world("alone", stack=stack, **project) as world:
            # The table changes in the hour of now: the last two of the story begin before that and end after it.
            world.now_ms = (clock.now_ms() // HOUR_MS - 25) * HOUR_MS
            await world.backfill(24)
            learned_ms = world.now_ms
            await world.first_version()
            await world.live(1)

            last = {"id": "last", "at": iso(learned_ms), "road": "a", "x": 1.5}

            async def says(**fields: Any) -> list[float]:
                return list((await world.trimtab.predict(world.name, [last | fields])).predictions)

            ahead = {
                "at": iso(clock.now_ms() + 12 * HOUR_MS)
            }  # when no view knows anything, and only the table tells
            narrow = await says(**ahead)
            write(roads, {"a": 9, "b": 2, "c": 3})

            async def is_wide() -> bool:
                return await says(**ahead) != narrow

            await eventually(is_wide, what="the road with other lanes")
            await world.live(2)
            await assert_no_skew(world)
            before, wide = await says(), await says(**ahead)
            # Of what it heard last a crash may take the copy, for Kafka still has it.
            await copy_is_whole(stack.kafka.servers)

            for service in ("monitoring", "registry", "trainer", "feature_store", "ingestion"):
                stack.kill_service(service)
            stack.kafka.kill()
            stack.postgres.kill()
            during = await says()
            stack.kill_service("serving")
            stack.start_service("serving")

            async def answers() -> Any:
                with suppress(Unavailable):  # the client's channel takes a moment to find the new process
                    return await says()

            after = await eventually(answers, what="an answer after the restart")

            assert before == during == after
            assert await says(**ahead) == wide != narrow
            assert await says(road="never seen") != after
            [why] = (await world.trimtab.explain(world.name, [last])).explanations
            assert [why.prediction] == pytest.approx(after, rel=1e-6)
            assert why.base + sum(why.contributions) == pytest.approx(why.prediction, rel=1e-6)


def write(file: Path, lanes: Mapping[str, int]) -> None:
    new = file.with_suffix(".new")
    pq.write_table(pa.table({"road": list(lanes), "lanes": list(lanes.values())}), new)
    new.rename(file)


async def copy_is_whole(servers: str) -> None:
    """Wait until serving says that all it has heard by now is on its disk."""
    begun_ms, said = SystemClock().now_ms(), asyncio.Event()

    async def hear(topic: str, partition: int, records: Sequence[Any]) -> None:
        for record in records:
            metric = topics.METRICS_SERVING.decode(record.value)
            is_since = from_timestamp(metric.window_to) > begun_ms
            if metric.name == "copy_behind_s" and metric.value == 0 and is_since:
                said.set()

    async with asyncio.timeout(60), asyncio.TaskGroup() as tasks:
        hearing = tasks.create_task(Follower(servers, [topics.METRICS_SERVING.name], hear).run())
        await said.wait()
        hearing.cancel()


async def assert_no_skew(world: Any) -> None:
    """Hold what serving logged against the archive, from before the table changed and from after it."""

    async def all_are_compared() -> Any:
        found = await world.trimtab.audit_skew(world.name)
        return found if found.rows == world.replay.tally.predictions else None

    audit = await eventually(all_are_compared, what="every prediction compared")
    assert audit.mismatched == 0, audit
    assert LANES in {feature.name for feature in audit.features}
    made = await world.trimtab.training_set(world.name, world.now_ms - 3 * HOUR_MS, world.now_ms)
    assert set(made.arrow()[LANES].to_pylist()) == {1, 2, 3, 9}
    assert made.tables["tables.alone-roads"] > world.now_ms - 3 * HOUR_MS
