"""A candidate is held to what its users expect of it, and waits for what tools outside say."""

import json
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager

import pytest
from trimtab import project, proving
from trimtab.testing import World
from trimtab_contracts.registry.v1.registry_pb2 import VersionEvent
from trimtab_core.specs import to_document
from trimtab_runtime.testing import eventually

pytestmark = [pytest.mark.real, pytest.mark.timeout(300)]

GATES = [
    {"fairness": "road", "of": "mae", "max_difference": 5},
    {"latency": "p50", "versus": "champion", "max_ratio": 1_000},
    {"latency": "p99", "at_most": "10s"},
    {"size": "model", "at_most": "1MB"},
]
TEST = """
---
kind: ModelTest
metadata: {{name: {name}-behaviour}}
spec:
  model: {name}
  direction:
    - {{name: more x, change: {{request.x: "+1"}}, never: {never}, violations: 0.01}}
"""


async def test_a_candidate_waits_for_its_checks_and_a_test_that_it_breaks_refuses_it(
    make_world: Callable[..., AbstractAsyncContextManager[World]],
) -> None:
    name = "held"
    less, more = (TEST.format(name=name, never=never) for never in ("less", "more"))
    async with make_world(name, gates=json.dumps(GATES), more_specs=less) as world:
        trimtab = world.trimtab
        document = to_document(await trimtab.model(name))
        document["spec"]["rollout"]["checks"] = ["smoke"]
        await trimtab.apply([document], actor="test")
        await world.backfill(48)
        loop = await world.first_version()
        assert loop.state == "awaiting_checks"
        assert not (await trimtab.deployment(name)).HasField("challenger")

        await trimtab.post_check(name, 1, "smoke", passed=True, actor="ci", url="https://ci.example.org/1")

        async def is_live() -> bool:
            return (await trimtab.loop(loop.id)).state == "live"

        await eventually(is_live, what="that version 1 is live")
        (first,) = await trimtab.versions(name)
        assert [(gate.gate, gate.passed) for gate in first.gates] == [
            ("mae between road", True),
            ("p50 latency versus champion", True),
            ("p99 latency at most 10000 ms", True),
            ("size at most 1 MB", True),
            (f"test {name}-behaviour: more x", True),
        ]
        fair, _, p99, *_ = first.gates
        assert fair.low <= fair.value <= fair.high < fair.limit
        assert 0 < p99.low <= p99.value
        assert first.candidate.latency.calls >= 40

        (passed,) = await proving.against_live(trimtab, project.parse(less))
        (failed,) = await proving.against_live(trimtab, project.parse(more))
        assert (passed.state, failed.state) == ("passed", "failed")
        assert "of version 1: 'more x': the answer gets more on" in failed.said

        await trimtab.apply(project.parse(more).resources, actor="test")
        command = await trimtab.train(name, reason="try", actor="test", as_of_ms=world.now_ms)
        loop = await world.ended(command)
        assert loop.state == "refused"
        assert [gate.gate for gate in loop.gates if not gate.passed] == [f"test {name}-behaviour: more x"]
        assert loop.gates[1].HasField("low"), "the two were timed side by side"

        version = await trimtab.post_check(name, 1, "smoke", passed=False, actor="ci", comment="red")
        assert version.stage == VersionEvent.LIVE, "nothing is there to go back to"
        entry = (await trimtab.audit(f"Model/{name}", action="check_failed"))[0]
        assert (entry.actor, entry.reason) == ("ci", "smoke failed: red")
