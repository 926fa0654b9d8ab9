"""Gates hold: a candidate has to earn its place."""

from collections.abc import Callable
from typing import Any

import pytest
from trimtab.audit import told, verify

pytestmark = [pytest.mark.real, pytest.mark.timeout(300)]


async def test_a_candidate_that_is_not_better_is_refused_and_the_champion_stays(
    make_world: Callable[..., Any],
) -> None:
    async with make_world("refused", gates="[{metric: mae, versus: champion, better_by: 0.2}]") as world:
        await world.backfill(48)
        await world.first_version()
        await world.live(12)

        command = await world.trimtab.train(world.name, reason="try", actor="test", as_of_ms=world.now_ms)
        loop = await world.ended(command)

        assert loop.state == "refused"
        assert [gate.passed for gate in loop.gates] == [False]
        assert "mae" in loop.gates[0].sentence
        assert (await world.trimtab.deployment(world.name)).champion.number == 1
        actions = [entry.action for entry in await world.trimtab.audit(f"Model/{world.name}")]
        assert any("refuse" in action for action in actions), actions

        found = await verify(world.trimtab.read_audit(), await told(world.servers))
        assert (found.fault, found.told > 0) == ("", True)
