"""An A/B test of several versions: begun by a person, judged arm by arm, and ended with one champion."""

from typing import Any

import pytest
from trimtab_contracts.registry.v1 import registry_pb2 as pb
from trimtab_registry.errors import NotNow, NotTheirs, UnfitTest, UnknownVersion, Unsigned
from trimtab_registry.testing import Harness
from trimtab_registry.usecases.entities import Stage
from trimtab_registry.usecases.rollouts import Standing


@pytest.fixture
async def registry() -> Harness:
    """A registry with champion 1, and versions 2, 3 and 4 that gave way to one another."""
    return await with_versions(Harness())


async def with_versions(harness: Harness, **rollout: Any) -> Harness:
    await harness.apply(rollout=rollout)
    await harness.consider("first")
    await harness.serve()
    for name in ("second", "third", "fourth"):
        await harness.consider(name, champion=1)
    return harness


async def begin(registry: Harness, *numbers: int, **said: Any) -> Standing:
    return await registry.contests.begin(
        "minutes", numbers, said.pop("shares", ()), **{"actor": "ann", "comment": "", **said}
    )


async def told(registry: Harness) -> tuple[list[int], int, int]:
    """Return the versions that serving is told to try, their share together, and how many have left."""
    wanted = registry.deployments()[-1]
    tried = [ref.number for ref in (wanted.challenger, *wanted.others) if ref.number]
    return tried, wanted.rollout.share, wanted.rollout.step


async def test_a_test_is_told_whole_and_starts_when_every_arm_is_warm_everywhere(registry: Harness) -> None:
    standing = await begin(registry, 2, 3, 4, shares=[30, 20, 10], comment="three ideas")

    wanted = registry.deployments()[-1]
    assert await told(registry) == ([2, 3, 4], 60, 0)
    assert wanted.rollout.strategy == "ab"
    assert [(arm.number, arm.share, arm.loop_id) for arm in wanted.rollout.arms] == [
        (2, 30, "loop-second"), (3, 20, "loop-third"), (4, 10, "loop-fourth"),
    ]  # fmt: skip
    assert [ref.model.digest for ref in wanted.others] == ["third", "fourth"]
    assert (standing.challengers, standing.champion) == ((2, 3, 4), 1)
    entry = registry.audited()[-1]
    assert (entry.action, entry.actor, entry.reason) == (
        "accepted", "ann", "in an A/B test of 2 and 3 and 4, begun by ann: three ideas",
    )  # fmt: skip

    await registry.report(warm=[1, 2, 3], champion=1)
    assert await registry.stages() == [Stage.LIVE, *[Stage.ACCEPTED] * 3]
    await registry.report(warm=[1, 2, 3, 4], champion=1)
    assert await registry.stages() == [Stage.LIVE, *[Stage.ON_TRIAL] * 3]


async def test_the_winner_is_promoted_and_the_others_go(registry: Harness) -> None:
    await begin(registry, 2, 3, 4)
    await registry.serve()
    await registry.verdict("PROMOTE", challenger=3)
    await registry.serve()

    standing = await registry.standing()
    assert (standing.champion, standing.previous, standing.live, standing.challengers) == (3, 1, 3, ())
    assert await registry.stages() == [Stage.LIVE, Stage.ROLLED_BACK, Stage.LIVE, Stage.ROLLED_BACK]
    wanted = registry.deployments()[-1]
    assert (wanted.champion.number, wanted.loop_id, len(wanted.others)) == (3, "loop-third", 0)
    gone = [event for event in registry.events() if event.number == 4][-1]
    assert gone.sentence == "version 3 was promoted instead"

    back = await registry.decisions.roll_back("minutes", actor="bob", comment="")
    assert back.champion == 1


async def test_a_bad_arm_leaves_and_the_test_goes_on_with_the_others(registry: Harness) -> None:
    await begin(registry, 2, 3, 4, shares=[30, 20, 10])
    await registry.serve()
    await registry.verdict("ROLL_BACK", challenger=2)

    assert await told(registry) == ([3, 4], 30, 1)
    arms = registry.deployments()[-1].rollout.arms
    assert [(arm.number, arm.left) for arm in arms] == [(2, True), (3, False), (4, False)]
    assert await registry.stages() == [Stage.LIVE, Stage.ROLLED_BACK, Stage.ON_TRIAL, Stage.ON_TRIAL]

    await registry.verdict("ROLL_BACK", challenger=4)
    await registry.verdict("ROLL_BACK", challenger=3)
    standing = await registry.standing()
    assert (standing.champion, standing.trial) == (1, None)
    assert await told(registry) == ([], 0, 0)


async def test_a_verdict_on_an_arm_that_has_left_is_stale(registry: Harness) -> None:
    await begin(registry, 2, 3)
    await registry.serve()
    await registry.verdict("ROLL_BACK", challenger=2)
    before = await registry.standing()
    await registry.verdict("PROMOTE", challenger=2)

    assert await registry.standing() == before
    assert registry.audited()[-1].action == "stale_verdict"


async def test_two_verdicts_of_one_step_are_one(registry: Harness) -> None:
    await begin(registry, 2, 3, 4)
    await registry.serve()
    first = await registry.verdict("ROLL_BACK", challenger=2)
    await registry.verdict("PROMOTE", challenger=3, step=first.step, generation=first.generation)

    assert (await registry.standing()).champion == 1
    assert await told(registry) == ([3, 4], 50, 1)


async def test_undecided_ends_the_whole_test(registry: Harness) -> None:
    await begin(registry, 2, 3, 4)
    await registry.serve()
    await registry.verdict("UNDECIDED", challenger=2)

    assert await registry.stages() == [Stage.LIVE, *[Stage.ROLLED_BACK] * 3]
    assert (await registry.standing()).champion == 1


async def test_an_arm_that_cannot_be_loaded_leaves_and_the_others_are_tested(registry: Harness) -> None:
    await begin(registry, 2, 3, 4)
    await registry.report(warm=[1, 2, 4], champion=1, errors={3: "the graph has no output"})
    assert await told(registry) == ([2, 4], 50, 1)
    await registry.serve()

    assert await registry.stages() == [Stage.LIVE, Stage.ON_TRIAL, Stage.ROLLED_BACK, Stage.ON_TRIAL]
    sentences = [event.sentence for event in registry.events() if event.number == 3]
    assert sentences[-1] == "serving-0 could not load it: the graph has no output"


async def test_a_check_that_fails_takes_one_arm_out(registry: Harness) -> None:
    await registry.apply(rollout={"checks": ["smoke"]})
    await begin(registry, 2, 3)
    await registry.checks.post("minutes", 3, "smoke", passed=False, actor="ci", comment="", url="")

    assert (await registry.standing()).challengers == (2,)


@pytest.mark.parametrize("warm", [True, False])
async def test_a_person_may_promote_one_arm_and_the_others_go(registry: Harness, warm: bool) -> None:
    await begin(registry, 2, 3, 4)
    if warm:
        await registry.serve()
    await registry.decisions.promote("minutes", 4, actor="ann", comment="")
    await registry.serve()

    assert await registry.stages() == [Stage.LIVE, Stage.ROLLED_BACK, Stage.ROLLED_BACK, Stage.LIVE]
    assert (await registry.standing()).champion == 4
    let_go = [event for event in registry.events() if event.number in (2, 3)][-2:]
    assert [event.sentence for event in let_go] == ["version 4 was promoted instead"] * 2


async def test_an_arm_promoted_while_it_loads_is_told_of_its_own_loop_even_if_it_cannot_be_loaded(
    registry: Harness,
) -> None:
    await begin(registry, 2, 3, 4)
    await registry.decisions.promote("minutes", 4, actor="ann", comment="")
    assert registry.deployments()[-1].loop_id == "loop-fourth"

    await registry.report(warm=[1], champion=1, errors={4: "the graph has no output"})
    wanted = registry.deployments()[-1]
    assert (wanted.champion.number, wanted.loop_id) == (1, "loop-fourth")


@pytest.mark.parametrize("warm", [True, False])
async def test_a_person_ends_a_test_and_the_champion_stays(registry: Harness, warm: bool) -> None:
    await begin(registry, 2, 3)
    if warm:
        await registry.serve()
    answer = await registry.api().EndTrial(
        pb.EndTrialRequest(model="minutes", actor="bob", comment="enough seen"), None
    )

    assert (answer.champion.number, answer.challenger.number, len(answer.others)) == (1, 0, 0)
    assert (await registry.stages())[:3] == [Stage.LIVE, Stage.ROLLED_BACK, Stage.ROLLED_BACK]
    why = "the A/B test was ended by bob: enough seen"
    assert [(event.number, event.loop_id, event.sentence) for event in registry.events()[-2:]] == [
        (2, "loop-second", why), (3, "loop-third", why),
    ]  # fmt: skip
    assert [(entry.action, entry.actor, entry.reason) for entry in registry.audited()[-2:]] == [
        ("rolled_back", "bob", why)
    ] * 2
    with pytest.raises(NotNow, match="no version of 'minutes' is on trial"):
        await registry.contests.end("minutes", actor="bob", comment="")


async def test_a_canary_is_ended_alike_and_what_is_to_serve_is_not(registry: Harness) -> None:
    await registry.contests.end("minutes", actor="bob", comment="")  # the canary of version 4
    assert (await registry.standing()).trial is None
    assert registry.events()[-1].sentence == "the canary was ended by bob"

    await registry.decisions.promote("minutes", 2, actor="ann", comment="better after all")
    with pytest.raises(NotNow, match="version 2 of 'minutes' becomes champion as soon as it is warm"):
        await registry.contests.end("minutes", actor="bob", comment="")
    with pytest.raises(Unsigned, match="say who ends the trial"):
        await registry.contests.end("minutes", actor="", comment="")


async def test_a_newer_candidate_ends_a_test_as_it_ends_a_canary(registry: Harness) -> None:
    await begin(registry, 2, 3)
    await registry.serve()
    await registry.consider("fifth", champion=1)

    assert (await registry.standing()).challengers == (5,)
    assert (await registry.stages())[1:3] == [Stage.ROLLED_BACK, Stage.ROLLED_BACK]


async def test_versions_in_a_test_are_in_use(registry: Harness) -> None:
    await begin(registry, 2, 3)
    with pytest.raises(NotNow, match="is on its way to serve"):
        await registry.decisions.retire("minutes", 3, actor="ann", comment="")
    with pytest.raises(NotNow, match="version 2 is on its way and version 3 is on its way"):
        await registry.deleting.delete("Model", "minutes", actor="ann", comment="")


async def test_shares_come_from_the_command_or_the_spec_or_are_alike() -> None:
    registry = await with_versions(Harness(), shares=[40, 20])

    def shares(standing: Standing) -> list[int]:
        assert standing.rollout is not None
        return [arm.share for arm in standing.rollout.arms]

    assert shares(await begin(registry, 2, 3, shares=[5, 6])) == [5, 6]
    assert shares(await begin(registry, 2, 3)) == [40, 20]
    assert shares(await begin(registry, 2, 3, 4)) == [25, 25, 25]


async def test_one_version_alone_is_tested_like_a_canary_of_one_step(registry: Harness) -> None:
    standing = await begin(registry, 3, shares=[20])

    assert standing.trial is not None
    assert (standing.trial.strategy, standing.trial.steps, standing.trial.share) == ("ab", (20,), 20)
    assert await told(registry) == ([3], 20, 0)


async def test_a_spec_with_strategy_ab_tests_each_candidate_at_its_first_share() -> None:
    registry = await with_versions(Harness(), strategy="ab", shares=[30, 20])

    standing = await registry.standing()
    assert standing.trial is not None
    assert (standing.trial.strategy, standing.trial.share, standing.challengers) == ("ab", 30, (4,))


@pytest.mark.parametrize(
    ("numbers", "said", "error", "sentence"),
    [
        ([2, 3], {"actor": ""}, Unsigned, "say who begins the test"),
        ([], {}, UnfitTest, "has no arm beside the champion"),
        ([2, 3, 2], {}, UnfitTest, "version 2 is named twice"),
        (range(2, 11), {}, UnfitTest, "9 versions are too many"),
        ([2, 3], {"shares": [30]}, UnfitTest, "are no shares of 2 versions"),
        ([2, 3], {"shares": [70, 40]}, UnfitTest, "share out 110 % of the keys among 2 arms"),
        ([2, 3], {"shares": [70, 0]}, UnfitTest, "among 2 arms"),
        ([2, 1], {}, NotNow, "is the champion, which every test has beside its arms"),
        ([2, 9], {}, UnknownVersion, "9"),
    ],
)
async def test_what_makes_no_test_is_refused_and_changes_nothing(
    registry: Harness, numbers: Any, said: dict[str, Any], error: type[Exception], sentence: str
) -> None:
    before, stages = await registry.standing(), await registry.stages()
    with pytest.raises(error, match=sentence):
        await begin(registry, *numbers, **said)

    assert (await registry.standing(), await registry.stages()) == (before, stages)


async def test_without_a_champion_there_is_nothing_to_test_beside() -> None:
    registry = Harness()
    await registry.apply()
    await registry.consider("first")
    with pytest.raises(NotNow, match="has no champion"):
        await begin(registry, 1, shares=[50])


async def test_a_refused_version_needs_a_reason_and_a_waiting_one_its_approval(registry: Harness) -> None:
    await registry.apply(gates=[{"metric": "mae", "at_most": 0.1}])
    await registry.consider("poor", champion=1)
    await registry.apply(rollout={"approval": "manual"})
    await registry.consider("waiting", champion=1)
    assert (await registry.stages())[-2:] == [Stage.REFUSED, Stage.AWAITING_APPROVAL]
    with pytest.raises(NotNow, match="waits for approval"):
        await begin(registry, 2, 6)
    with pytest.raises(Unsigned, match="was refused by its gates"):
        await begin(registry, 2, 5)

    assert (await begin(registry, 2, 5, comment="the gate is old")).challengers == (2, 5)


async def test_a_test_is_begun_by_the_roles_that_approve() -> None:
    registry = await with_versions(Harness("risk:ann"), approval={"by": ["risk"]})
    with pytest.raises(NotTheirs, match="is tested by"):
        await begin(registry, 2, 3, actor="bob")


async def test_the_door_begins_a_test() -> None:
    registry = await with_versions(Harness())
    answer = await registry.api().BeginTest(
        pb.BeginTestRequest(model="minutes", numbers=[2, 3], shares=[30, 40], actor="ann"), None
    )
    assert [ref.number for ref in (answer.champion, answer.challenger, *answer.others)] == [1, 2, 3]
    assert [arm.share for arm in answer.rollout.arms] == [30, 40]
