"""Versions have aliases and tags, are retired when nothing needs them, and a model is taken out of service whole."""

import pytest
from trimtab_contracts.registry.v1 import registry_pb2 as pb
from trimtab_registry.errors import BadName, NotNow, NotTheirs, UnknownAlias, UnknownVersion, Unsigned
from trimtab_registry.testing import Harness
from trimtab_registry.testing.harness import MODEL
from trimtab_registry.usecases.entities import CancelledRun, Stage

BY = {"actor": "ann", "comment": ""}


@pytest.fixture
async def registry() -> Harness:
    """Return a registry whose version 3 is the champion, 2 the one before, and 1 was replaced."""
    made = Harness()
    await made.apply()
    for name in ("first", "second", "third"):
        await made.consider(name)
        await made.serve()
        if (await made.standing()).challenger:
            await made.verdict("PROMOTE")
            await made.serve()
    return made


async def called(registry: Harness, name: str) -> list[int]:
    request = pb.ListVersionsRequest(model=MODEL, called=name)
    return [version.number for version in (await registry.api().ListVersions(request, None)).versions]


async def test_an_alias_names_one_version_and_moves(registry: Harness) -> None:
    assert await registry.names.alias(MODEL, "stable", 1, **BY) == 0
    assert await registry.names.alias(MODEL, "stable", 2, actor="bob", comment="calmer") == 1
    assert await called(registry, "stable") == [2]
    entry = registry.audited()[-1]
    assert (entry.action, entry.actor, entry.reason, dict(entry.details)) == (
        "aliased", "bob", "calmer", {"alias": "stable", "version": 2, "before": 1},
    )  # fmt: skip

    told = len(registry.audited())
    assert await registry.names.alias(MODEL, "stable", 2, **BY) == 2
    assert len(registry.audited()) == told, "what is so already is no change"

    assert await registry.names.alias(MODEL, "stable", 0, **BY) == 2
    assert registry.audited()[-1].action == "unaliased"
    with pytest.raises(UnknownAlias, match="no version that is called 'stable'"):
        await called(registry, "stable")


async def test_champion_challenger_and_previous_follow_what_serves_and_nobody_gives_them(
    registry: Harness,
) -> None:
    assert (await called(registry, "champion"), await called(registry, "previous")) == ([3], [2])
    assert await called(registry, "2") == [2]
    with pytest.raises(BadName, match="alias 'champion' follows what serves"):
        await registry.names.alias(MODEL, "champion", 1, **BY)
    await registry.consider("fourth", champion=3)
    assert await called(registry, "challenger") == [4]


@pytest.mark.parametrize("name", ["", "7", "Stable", "a b", "x" * 81])
async def test_what_is_no_alias_is_refused_with_what_would_be_one(registry: Harness, name: str) -> None:
    with pytest.raises(BadName, match="is no name: write a letter"):
        await registry.names.alias(MODEL, name, 1, **BY)


async def test_an_alias_of_nobody_or_of_no_version_is_refused(registry: Harness) -> None:
    with pytest.raises(Unsigned):
        await registry.names.alias(MODEL, "stable", 1, actor="", comment="")
    with pytest.raises(UnknownVersion):
        await registry.names.alias(MODEL, "stable", 9, **BY)
    with pytest.raises(UnknownAlias):
        await registry.names.alias(MODEL, "stable", 0, **BY)


async def test_tags_are_put_and_taken_off_and_the_audit_log_says_what_they_were(registry: Harness) -> None:
    await registry.names.tag(MODEL, 1, {"city": "bergen", "owner": "ann"}, [], **BY)
    tagged = await registry.names.tag(MODEL, 1, {"city": "oslo"}, ["owner", "nothing"], **BY)
    assert dict(tagged.tags) == {"city": "oslo"}
    entry = registry.audited()[-1]
    assert (entry.action, entry.reason) == ("tagged", "city=oslo, no owner")
    assert dict(entry.details["before"]) == {"city": "bergen", "owner": "ann"}
    [version] = (
        await registry.api().ListVersions(pb.ListVersionsRequest(model=MODEL, called="1"), None)
    ).versions
    assert dict(version.tags) == {"city": "oslo"}


@pytest.mark.parametrize(("key", "value"), [("City", "oslo"), ("city", ""), ("city", "x" * 501)])
async def test_what_is_no_tag_is_refused(registry: Harness, key: str, value: str) -> None:
    with pytest.raises(BadName, match="tag '"):
        await registry.names.tag(MODEL, 1, {key: value}, [], **BY)


async def test_a_version_is_retired_when_nothing_needs_it_and_serves_never_again(registry: Harness) -> None:
    await registry.decisions.retire(MODEL, 1, actor="ann", comment="too old")
    assert await registry.stages() == [Stage.RETIRED, Stage.LIVE, Stage.LIVE]
    assert (registry.audited()[-1].action, registry.audited()[-1].reason) == ("retired", "too old")
    with pytest.raises(NotNow, match="was retired: train another"):
        await registry.decisions.promote(MODEL, 1, actor="ann", comment="again")
    with pytest.raises(NotNow, match="is retired already"):
        await registry.decisions.retire(MODEL, 1, **BY)
    with pytest.raises(NotNow, match="is retired and can be called nothing"):
        await registry.names.alias(MODEL, "stable", 1, **BY)


async def test_what_a_version_is_needed_for_is_named_all_of_it(registry: Harness) -> None:
    for number, said in (
        (3, "it is the champion"),
        (2, "it is the champion before, kept warm for a rollback"),
    ):
        with pytest.raises(NotNow, match=said):
            await registry.decisions.retire(MODEL, number, **BY)
    await registry.consider("fourth", champion=3)
    await registry.names.alias(MODEL, "next", 4, **BY)
    await registry.names.tag(MODEL, 4, {"pin": "for the auditors"}, [], **BY)
    with pytest.raises(NotNow) as caught:
        await registry.decisions.retire(MODEL, 4, **BY)
    assert "is on its way to serve and is called 'next' and is pinned (for the auditors)" in str(caught.value)


async def test_a_model_is_taken_out_of_service_whole(registry: Harness) -> None:
    await registry.consider("fourth", champion=3)
    with pytest.raises(Unsigned, match="say why"):
        await registry.decisions.withdraw(MODEL, **BY)
    assert await registry.decisions.withdraw(MODEL, actor="ann", comment="it is forbidden") == [2, 3, 4]

    standing = await registry.standing()
    assert (standing.champion, standing.previous, standing.live, standing.challenger) == (None,) * 4
    told = registry.deployments()[-1]
    assert not told.HasField("champion") and not told.HasField("previous") and not told.HasField("challenger")
    assert await registry.stages() == [Stage.LIVE, Stage.RETIRED, Stage.RETIRED, Stage.RETIRED]
    assert await registry.store.versions(MODEL, registry.clock.now_ms() + 1) == []
    with pytest.raises(NotNow, match="nothing of model 'minutes' serves"):
        await registry.decisions.withdraw(MODEL, actor="ann", comment="again")

    await registry.consider("fifth")
    await registry.serve()
    assert (await registry.standing()).live == 5, "a model that was taken out of service may come back"


async def test_a_model_whose_champion_is_pinned_stays_in_service(registry: Harness) -> None:
    await registry.names.tag(MODEL, 3, {"pin": "the court wants it"}, [], **BY)
    with pytest.raises(NotNow, match="the court wants it"):
        await registry.decisions.withdraw(MODEL, actor="ann", comment="it is forbidden")
    assert (await registry.standing()).champion == 3


async def test_to_promote_takes_the_role_that_approves() -> None:
    registry = Harness("risk:ann,bob")
    await registry.apply(rollout={"approval": {"by": ["risk"]}})
    await registry.consider("first")
    await registry.approvals.approve(MODEL, 1, actor="bob", comment="")
    with pytest.raises(
        NotTheirs, match="is promoted by people with the role risk, which eve has not: ask ann, bob"
    ):
        await registry.decisions.promote(MODEL, 1, actor="eve", comment="quick")
    await registry.serve()
    await registry.consider("second", champion=1)
    await registry.approvals.approve(MODEL, 2, actor="bob", comment="")
    await registry.decisions.promote(MODEL, 2, actor="ann", comment="quick")


async def test_a_run_that_somebody_cancels_is_an_entry_of_the_audit_log_once(registry: Harness) -> None:
    ended = CancelledRun("run-9/CANCELLED", "run-9", MODEL, "loop-9", "bob", "the data is wrong", 5_000)
    for _ in range(2):
        await registry.candidates.note_cancelled(ended)
    entries = [entry for entry in registry.audited() if entry.action == "run_cancelled"]
    assert [(each.actor, each.reason, each.details["run_id"]) for each in entries] == [
        ("bob", "the data is wrong", "run-9")
    ]
