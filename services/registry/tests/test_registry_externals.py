"""What tools outside say of a version: it waits for them, a failed one stops it however far it has come."""

import itertools
import random
from typing import Any

import pytest
from trimtab_contracts.registry.v1 import registry_pb2 as pb
from trimtab_registry.errors import BadSpecs, NotNow, NotTheirs, UnknownCheck, UnknownVersion, Unsigned
from trimtab_registry.testing import Harness
from trimtab_registry.usecases.entities import Stage, Version
from trimtab_registry.usecases.stages import STAGES
from trimtab_runtime.errors import Rejected

DAY_MS = 86_400_000


async def a_registry(checks: Any = ("smoke", "e2e"), **rollout: Any) -> Harness:
    """Return a registry whose version 1 waits for checks."""
    harness = Harness("ci:bot;risk:ann,bob")
    await harness.apply(
        rollout={"checks": list(checks) if isinstance(checks, tuple) else checks, "cap": 60, **rollout}
    )
    await harness.consider("first")
    return harness


async def post(
    registry: Harness, name: str, *, passed: bool = True, number: int = 1, actor: str = "bot", **more: str
) -> Version:
    return await registry.checks.post("minutes", number, name, passed=passed, actor=actor, **more)


async def with_champions(count: int) -> Harness:
    """Return a registry with so many versions that came to serve, one after the other."""
    registry = await a_registry(("smoke",), strategy="immediate")
    for number in range(1, count + 1):
        if number > 1:
            await registry.consider(f"run-{number}", champion=number - 1)
        await post(registry, "smoke", number=number)
        await registry.serve()
    return registry


async def test_a_candidate_waits_until_all_its_checks_have_passed_and_each_is_on_record() -> None:
    registry = await a_registry()
    assert await registry.stages() == [Stage.AWAITING_CHECKS]
    assert registry.events()[-1].sentence == "it has no gates to pass and waits for checks: smoke, e2e"

    version = await post(registry, "smoke", comment="12 of 12", url="https://ci.example.org/7")
    assert version.checks is not None
    assert (version.stage, version.checks.pending) == (Stage.AWAITING_CHECKS, ("e2e",))
    assert not registry.deployments()
    version = await post(registry, "e2e")

    assert version.stage is Stage.ACCEPTED
    assert registry.deployments()[-1].challenger.number == 1
    passed, *_, accepted = registry.audited()[2:]
    assert (passed.action, passed.actor, passed.reason) == ("check_passed", "bot", "smoke passed: 12 of 12")
    assert list(passed.details["roles"]) == ["ci"]
    assert passed.details["url"] == "https://ci.example.org/7"
    assert (accepted.action, accepted.reason) == ("accepted", "its checks passed: smoke, e2e")


async def test_a_failed_check_rejects_what_waits() -> None:
    registry = await a_registry()
    await post(registry, "smoke")
    await post(registry, "smoke", passed=False, comment="again, and red")

    assert await registry.stages() == [Stage.REJECTED]
    assert registry.events()[-1].sentence == "smoke failed: again, and red"
    with pytest.raises(NotNow, match="version 1 of 'minutes' is REJECTED, and no check of it changes that"):
        await post(registry, "smoke")


async def test_people_are_asked_after_the_checks_and_have_their_time_from_then() -> None:
    registry = await a_registry(("smoke",), approval={"by": ["risk"], "expires": "2d"})
    registry.clock.advance(3 * DAY_MS)
    with pytest.raises(NotNow, match="does not wait for approval"):
        await registry.approvals.approve("minutes", 1, actor="ann", comment="")
    await post(registry, "smoke")
    assert await registry.stages() == [Stage.AWAITING_APPROVAL]

    registry.clock.advance(DAY_MS)
    await registry.approvals.expire()
    await registry.approvals.approve("minutes", 1, actor="ann", comment="")
    assert await registry.stages() == [Stage.ACCEPTED]


async def test_a_check_that_fails_while_people_are_asked_is_a_veto() -> None:
    registry = await a_registry(("smoke",), approval="manual")
    await post(registry, "smoke")
    await post(registry, "smoke", passed=False)

    assert await registry.stages() == [Stage.REJECTED]


async def test_a_check_that_fails_on_trial_drops_the_challenger_and_the_champion_stays() -> None:
    registry = await with_champions(1)
    await registry.apply(rollout={"checks": ["smoke"]})
    await registry.consider("second", champion=1)
    await post(registry, "smoke", number=2)
    await registry.serve()
    assert await registry.stages() == [Stage.LIVE, Stage.ON_TRIAL]

    await post(registry, "smoke", number=2, passed=False, comment="checkout is broken")

    assert await registry.stages() == [Stage.LIVE, Stage.ROLLED_BACK]
    standing = await registry.standing()
    assert (standing.champion, standing.challenger) == (1, None)
    assert registry.events()[-1].sentence == "smoke failed: checkout is broken"


async def test_a_check_that_fails_of_what_serves_brings_the_champion_before_back() -> None:
    registry = await with_champions(2)
    await registry.apply(rollout={"checks": ["smoke"]})
    await registry.consider("third", champion=2)
    await post(registry, "smoke", number=3)
    await registry.serve()

    await post(registry, "smoke", number=2, passed=False)
    await registry.serve()

    standing = await registry.standing()
    assert (standing.champion, standing.previous, standing.challenger, standing.live) == (1, None, None, 1)
    assert await registry.stages() == [Stage.LIVE, Stage.ROLLED_BACK, Stage.ROLLED_BACK]


async def test_of_the_only_champion_a_failed_check_is_on_record_and_it_serves_on() -> None:
    registry = await with_champions(1)
    version = await post(registry, "smoke", passed=False)

    assert version.stage is Stage.LIVE
    assert (await registry.standing()).champion == 1
    assert registry.audited()[-1].action == "check_failed"


async def test_of_one_that_was_replaced_a_failed_check_changes_nothing_that_serves() -> None:
    registry = await with_champions(2)
    await post(registry, "smoke", number=1, passed=False)

    assert (await registry.standing()).champion == 2


async def test_a_check_that_the_spec_names_by_now_may_be_posted_of_an_older_version() -> None:
    registry = await with_champions(2)
    with pytest.raises(UnknownCheck, match="model 'minutes' waits for no check 'nightly': post one of smoke"):
        await post(registry, "nightly", number=2, passed=False)
    await registry.apply(rollout={"checks": ["smoke", "nightly"]})
    await post(registry, "nightly", number=2, passed=False)

    assert (await registry.standing()).champion == 1


async def test_a_model_without_checks_names_the_remedy() -> None:
    registry = Harness()
    await registry.apply()
    await registry.consider("first")
    with pytest.raises(UnknownCheck, match=r"name it in rollout\.checks of the model's spec first"):
        await post(registry, "smoke")


async def test_only_who_has_a_role_posts() -> None:
    registry = await a_registry({"required": ["smoke"], "by": ["ci"]})
    with pytest.raises(NotTheirs, match="the role ci, which eve has not: ask bot"):
        await post(registry, "smoke", actor="eve")
    with pytest.raises(Unsigned):
        await post(registry, "smoke", actor="")
    with pytest.raises(UnknownVersion):
        await post(registry, "smoke", number=7)
    assert await registry.stages() == [Stage.AWAITING_CHECKS]
    assert not registry.audited()[-1].action.startswith("check")

    with pytest.raises(BadSpecs, match="'robots' is a role that nobody has"):
        await registry.apply(rollout={"checks": {"required": ["smoke"], "by": ["robots"]}})


async def test_checks_that_do_not_come_in_time_reject_the_version() -> None:
    registry = await a_registry({"required": ["smoke", "e2e"], "expires": "1d"})
    await post(registry, "smoke")
    registry.clock.advance(DAY_MS)
    with pytest.raises(NotNow, match=r"waited for checks until 1970-01-02T00:00:10\.000Z: train another"):
        await post(registry, "e2e")
    await registry.approvals.expire()

    assert await registry.stages() == [Stage.REJECTED]
    assert (
        registry.events()[-1].sentence
        == "not checked in time: e2e had not passed by 1970-01-02T00:00:10.000Z"
    )


async def test_nobody_promotes_what_waits_for_checks() -> None:
    registry = await a_registry()
    with pytest.raises(NotNow, match=r"waits for checks \(smoke, e2e\): have them posted"):
        await registry.decisions.promote("minutes", 1, actor="ann", comment="now")


async def test_what_waits_for_checks_is_not_retired_and_keeps_its_files() -> None:
    registry = await a_registry()
    with pytest.raises(NotNow, match="cannot be retired, for it waits for checks"):
        await registry.decisions.retire("minutes", 1, actor="ann", comment="")
    registry.clock.advance(30 * DAY_MS)
    assert await registry.collector.look() == []


async def test_of_one_that_was_retired_no_check_is_posted() -> None:
    registry = await with_champions(3)
    await registry.decisions.retire("minutes", 1, actor="ann", comment="")
    with pytest.raises(NotNow, match="is RETIRED, and no check of it changes that"):
        await post(registry, "smoke", number=1)


async def test_a_comparison_that_is_stale_once_the_checks_are_in_refuses_the_version() -> None:
    registry = await a_registry(("smoke",), strategy="immediate")
    await registry.apply(
        gates=[{"metric": "mae", "versus": "champion"}],
        rollout={"checks": ["smoke"], "strategy": "immediate"},
    )
    await registry.consider("second")
    await post(registry, "smoke", number=1)
    await registry.serve()
    await post(registry, "smoke", number=2)

    assert await registry.stages() == [Stage.LIVE, Stage.REFUSED]
    assert (
        "its checks passed: smoke, but it was evaluated beside no champion" in registry.events()[-1].sentence
    )


async def test_a_check_is_posted_and_read_over_the_door() -> None:
    registry = await a_registry({"required": ["smoke"], "by": ["ci"], "expires": "1d"})
    api = registry.api()
    asked = pb.PostCheckRequest(
        model="minutes", number=1, name="smoke", passed=True, actor="bot", comment="ok", url="https://ci/1"
    )
    await api.PostCheck(asked, None)

    (version,) = (await api.ListVersions(pb.ListVersionsRequest(model="minutes"), None)).versions
    (posted,) = version.checks.posted
    assert version.stage == pb.VersionEvent.ACCEPTED
    assert (posted.name, posted.passed, list(posted.roles), posted.url) == (
        "smoke",
        True,
        ["ci"],
        "https://ci/1",
    )
    assert (list(version.checks.required), list(version.checks.by)) == (["smoke"], ["ci"])
    assert version.checks.until.seconds == 86_410


@pytest.mark.parametrize("seed", range(25))
async def test_in_any_order_of_events_nothing_loads_that_has_not_passed_and_been_approved(seed: int) -> None:
    rng, runs = random.Random(seed), 0
    registry = Harness("risk:ann")
    await registry.apply(rollout={"checks": ["a", "b"], "approval": {"by": ["risk"], "expires": "1d"}})
    for _ in range(60):
        number = rng.randint(max(runs - 2, 1), max(runs, 1))
        try:
            match rng.randint(0, 9):
                case 0:
                    runs += 1
                    await registry.consider(f"run-{runs}", champion=(await registry.standing()).champion or 0)
                case 1 | 2 | 3 | 4:
                    await post(registry, rng.choice("ab"), number=number, passed=rng.random() < 0.85)
                case 5 | 6:
                    await registry.approvals.approve("minutes", number, actor="ann", comment="")
                case 7:
                    await registry.serve()
                case 8:
                    await registry.verdict(rng.choice(["PROMOTE", "ROLL_BACK", "ADVANCE"]))  # type: ignore[arg-type]
                case _:
                    registry.clock.advance(rng.choice([1, DAY_MS // 2]))
                    await registry.approvals.expire()
        except Rejected:
            continue
        standing = await registry.standing()
        for version in await registry.store.versions("minutes"):
            if version.number in (standing.champion, standing.challenger):
                assert version.checks is not None
                assert version.approval is not None
                failed = version.checks.pending
                assert not failed or version.number == standing.champion, "only a lone champion serves on"
                assert version.approval.is_complete
    for number in range(1, runs + 1):
        stages = [
            Stage(pb.VersionEvent.Stage.Name(event.stage))
            for event in registry.events()
            if event.number == number
        ]
        assert stages[0] is Stage.AWAITING_CHECKS
        for before, after in itertools.pairwise(stages):
            assert after in STAGES[before], f"{after} after {before}"
            if after is Stage.ACCEPTED:
                assert before is Stage.AWAITING_APPROVAL, "checks let nothing past the people who are asked"
