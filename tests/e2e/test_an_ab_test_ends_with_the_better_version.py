"""Two versions are tested beside the champion: the bad one leaves early, the better one is promoted, and a person ends a test."""

from collections.abc import Callable
from typing import Any

import pytest
from trimtab.registering import File
from trimtab_contracts.monitoring.v1.monitoring_pb2 import Verdict
from trimtab_contracts.registry.v1.registry_pb2 import VersionEvent
from trimtab_runtime.errors import Conflict
from trimtab_runtime.testing import eventually

pytestmark = [pytest.mark.real, pytest.mark.timeout(300)]

NAMES = {1: "champion", 2: "challenger-2", 3: "challenger-3"}
SLOPES = {1: 1.0, 2: -2.0, 3: 2.0}
"""Of each version; what is true is 2 x, and a little more."""


async def test_the_bad_version_leaves_and_the_better_one_is_promoted(
    make_world: Callable[..., Any], sloping: Callable[[float], bytes]
) -> None:
    async with make_world("arms", strategy="ab") as world:
        trimtab, name = world.trimtab, world.name
        world.per_hour = 120
        await world.backfill(3)
        for number, slope in SLOPES.items():
            await trimtab.register(name, File(f"{slope}.onnx", sloping(slope)), actor="ann")
            await eventually(lambda: has_come(world, number), what=f"version {number}")  # noqa: B023 - awaited here

        with pytest.raises(Conflict, match="is the champion, which every test has beside its arms"):
            await trimtab.begin_test(name, [1, 2], actor="ann")
        wanted = await trimtab.begin_test(name, [2, 3], [30, 30], actor="ann", comment="two slopes")
        assert [arm.number for arm in wanted.rollout.arms] == [2, 3]

        async def all_answer() -> Any:
            row = {"at": "2023-11-20T00:00:00Z", "road": "b", "x": 4.0}
            asked = await trimtab.predict(name, [row | {"id": f"{at}"} for at in range(60)])
            stages = [version.stage for version in await trimtab.versions(name)]
            warm = {*asked.versions} == {1, 2, 3} and stages.count(VersionEvent.ON_TRIAL) == 2
            return asked if warm else None

        asked = await eventually(all_answer, what="answers of all versions")
        for said, version, arm in zip(asked.predictions, asked.versions, asked.arms, strict=True):
            assert (said, arm) == (pytest.approx(4 * SLOPES[version], rel=1e-5), NAMES[version])

        await world.live(
            24, until=lambda loops: any(loop.version == 3 and loop.state == "live" for loop in loops)
        )

        deployment = await trimtab.deployment(name)
        assert (deployment.champion.number, deployment.previous.number) == (3, 1)
        assert world.replay.tally.failed_requests == 0, world.replay.tally.failures
        bad, best = [
            next(loop for loop in await trimtab.loops(name) if loop.version == number) for number in (2, 3)
        ]
        assert (bad.state, bad.verdict.outcome) == ("rolled_back", Verdict.ROLL_BACK)
        assert (best.state, best.verdict.outcome) == ("live", Verdict.PROMOTE)
        assert bad.verdict.rows < best.verdict.rows, "it left before the test was over"
        assert best.verdict.evidence >= 40
        actions = [
            (entry.action, int(entry.details["version"]))
            for entry in reversed(await trimtab.audit(f"Model/{name}"))
            if entry.action in ("accepted", "on_trial", "rolled_back", "promoted")
            and "version" in entry.details
        ]
        assert actions[-6:] == [
            ("accepted", 2), ("accepted", 3), ("on_trial", 2), ("on_trial", 3), ("rolled_back", 2), ("promoted", 3),
        ]  # fmt: skip

        await trimtab.begin_test(name, [2], [30], actor="ann", comment="once more")
        ended = await trimtab.end_trial(name, actor="ann", comment="enough seen")
        assert (ended.champion.number, ended.challenger.number) == (3, 0)
        outcome = "Version 2 was taken off its trial: the A/B test was ended by ann: enough seen"

        async def told() -> bool:
            return outcome in [loop.outcome for loop in await trimtab.loops(name)]

        await eventually(told, what="the end of the loop")


async def has_come(world: Any, number: int) -> bool:
    """Whether a version serves, or is on trial beside the first."""
    wanted = await world.trimtab.deployment(world.name)
    return number in (wanted.challenger.number, wanted.champion.number) and (
        number > 1 or wanted.champion.number == 1
    )
