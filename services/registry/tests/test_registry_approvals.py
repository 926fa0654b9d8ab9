"""People's word for a version: whose counts, how many it takes, and until when."""

from typing import Any

import pytest
from trimtab_registry.errors import BadRoles, BadSpecs, NotNow, NotTheirs, Unsigned
from trimtab_registry.testing import Harness
from trimtab_registry.usecases.entities import Stage, Version
from trimtab_registry.usecases.roles import Roles

DAY_MS = 86_400_000


async def a_registry(**rule: Any) -> Harness:
    """Return a registry whose version 1 waits for approval by a rule."""
    harness = Harness("risk: ann, bob; ml:carl;")
    await harness.apply(rollout={"approval": {"by": ["risk", "ml"], **rule}})
    await harness.consider("first")
    return harness


async def version(registry: Harness) -> Version:
    return (await registry.store.versions("minutes"))[0]


async def approve(registry: Harness, actor: str, comment: str = "") -> None:
    await registry.approvals.approve("minutes", 1, actor=actor, comment=comment)


async def test_a_version_goes_on_once_enough_people_have_approved_and_each_is_on_record() -> None:
    registry = await a_registry(approvers=2)

    await approve(registry, "ann", "looks right")
    assert await registry.stages() == [Stage.AWAITING_APPROVAL]
    assert str((await version(registry)).approval) == "1 of 2 (ann)"
    assert not registry.deployments()
    await approve(registry, "carl")

    assert await registry.stages() == [Stage.ACCEPTED]
    assert registry.deployments()[-1].challenger.number == 1
    assert [(entry.action, entry.actor, entry.reason) for entry in registry.audited()[2:]] == [
        ("approved", "ann", "approved: looks right"),
        ("approved", "carl", "approved"),
        ("accepted", "carl", "approved by ann, carl"),
    ]


async def test_nobody_approves_twice() -> None:
    registry = await a_registry(approvers=2)
    await approve(registry, "ann")

    with pytest.raises(NotNow, match="ann has approved version 1 of 'minutes' already: another has to"):
        await approve(registry, "ann")


async def test_only_people_with_a_role_decide() -> None:
    registry = await a_registry()

    with pytest.raises(NotTheirs, match="the role risk or ml, which eve has not: ask ann, bob, carl"):
        await approve(registry, "eve")
    with pytest.raises(NotTheirs):
        await registry.approvals.reject("minutes", 1, actor="eve", comment="")
    assert await registry.stages() == [Stage.AWAITING_APPROVAL]


async def test_a_comment_is_needed_where_the_spec_says_so() -> None:
    registry = await a_registry(comment=True)

    with pytest.raises(Unsigned, match="comment is empty: an approval of 'minutes' needs one"):
        await approve(registry, "ann")
    await approve(registry, "ann", "looks right")

    assert await registry.stages() == [Stage.ACCEPTED]


async def test_one_rejection_ends_it_whoever_has_approved() -> None:
    registry = await a_registry(approvers=2)
    await approve(registry, "ann")
    await registry.approvals.reject("minutes", 1, actor="bob", comment="not today")

    assert await registry.stages() == [Stage.REJECTED]
    with pytest.raises(NotNow, match="is REJECTED and does not wait"):
        await approve(registry, "carl")


async def test_what_waits_too_long_is_rejected_and_says_how_far_it_had_come() -> None:
    registry = await a_registry(approvers=2, expires="7d")
    await approve(registry, "ann")
    registry.clock.advance(7 * DAY_MS - 1)
    await registry.approvals.expire()
    assert await registry.stages() == [Stage.AWAITING_APPROVAL]

    registry.clock.advance(1)
    with pytest.raises(NotNow, match=r"waited for approval until 1970-01-08T00:00:10.000Z: train another"):
        await approve(registry, "bob")
    await registry.approvals.expire()
    await registry.approvals.expire()

    assert await registry.stages() == [Stage.REJECTED]
    event = registry.events()[-1]
    assert (event.actor, event.sentence) == (
        "registry",
        "not approved in time: 1 of 2 (ann) had by 1970-01-08T00:00:10.000Z",
    )
    assert len(registry.events()) == 2


async def test_a_version_waits_by_the_rule_it_came_under() -> None:
    registry = await a_registry(approvers=2)
    await registry.apply(rollout={"approval": "manual"})

    await approve(registry, "ann")
    assert await registry.stages() == [Stage.AWAITING_APPROVAL]
    with pytest.raises(NotTheirs):
        await approve(registry, "eve")


@pytest.mark.parametrize(
    ("approval", "path", "said"),
    [
        ({"by": ["rsk"]}, "spec.rollout.approval.by.0", "'rsk' is a role that nobody has"),
        ({"by": ["risk"], "approvers": 3}, "spec.rollout.approval.approvers", "3 have to approve, and ann, bob alone may"),
        ({"by": []}, "spec.rollout.approval.by", "at least 1"),
        ({"approvers": 2}, "spec.rollout.approval.by", "it is missing"),
        ({"by": ["risk"], "expires": "soon"}, "spec.rollout.approval.expires", "'soon'"),
        ("maybe", "spec.rollout.approval", "'maybe' is not allowed: write auto, manual or who approves"),
    ],
)  # fmt: skip
async def test_a_rule_that_nobody_can_keep_is_refused_when_it_is_applied(
    approval: Any, path: str, said: str
) -> None:
    harness = Harness("risk:ann,bob")
    with pytest.raises(BadSpecs) as refused:
        await harness.apply(rollout={"approval": approval})

    (fault,) = refused.value.faults
    assert (fault.resource, fault.path) == ("Model/minutes", path)
    assert said in fault.sentence


def test_roles_are_people_by_name() -> None:
    roles = Roles.parse(" risk : ann , bob ;ml:carl,ann;")
    assert roles.of(["risk"]) == {"ann", "bob"}
    assert roles.of(["risk", "ml"]) == {"ann", "bob", "carl"}
    assert roles.of(["nobody"]) == Roles.parse("").of(["risk"]) == frozenset()


@pytest.mark.parametrize("text", ["risk", "risk:", ":ann", "risk:ann;risk:bob", "risk:,"])
def test_roles_of_another_form_are_refused(text: str) -> None:
    with pytest.raises(BadRoles, match="which is no role with people of its own"):
        Roles.parse(text)
