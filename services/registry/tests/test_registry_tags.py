"""Tags of datasets: one name, one dataset, and a record of what it named before."""

import pytest
from trimtab_registry.errors import BadTag, UnknownRun, UnknownTag, Unsigned
from trimtab_registry.testing import Harness
from trimtab_registry.usecases.entities import AuditQuery
from trimtab_runtime.errors import NotFound


@pytest.fixture
async def registry() -> Harness:
    """A registry with versions of the runs `first` and `second`."""
    harness = Harness()
    await harness.apply()
    for name in ("first", "second"):
        await harness.consider(name)
    return harness


async def actions(registry: Harness) -> list[tuple[str, str, str]]:
    found = await registry.store.audit(AuditQuery(resource="DatasetTag/gold"))
    return [(entry.action, entry.actor, entry.reason) for entry in found]


async def test_a_tag_names_the_dataset_of_a_run_and_moving_it_is_said_and_recorded(registry: Harness) -> None:
    tag, before = await registry.tags.put("gold", "first", actor="ann", comment="reviewed")
    assert (tag.model, tag.run_id, tag.tagged_by, before) == ("minutes", "first", "ann", None)

    moved, before = await registry.tags.put("gold", "second", actor="bob", comment="newer")

    assert before == tag
    assert await registry.tags.list() == [moved]
    assert await actions(registry) == [("moved", "bob", "newer"), ("tagged", "ann", "reviewed")]
    [newest, _] = await registry.store.audit(AuditQuery(resource="DatasetTag/gold"))
    assert (newest.details["run_id"], newest.details["before"]) == ("second", "first")


async def test_the_same_tag_once_more_changes_nothing(registry: Harness) -> None:
    tag, _ = await registry.tags.put("gold", "first", actor="ann", comment="")
    registry.clock.advance(1_000)

    assert await registry.tags.put("gold", "first", actor="bob", comment="") == (tag, None)
    assert len(await actions(registry)) == 1


async def test_a_tag_is_removed_and_that_is_recorded(registry: Harness) -> None:
    tag, _ = await registry.tags.put("gold", "first", actor="ann", comment="")

    assert await registry.tags.remove("gold", actor="bob", comment="stale") == tag

    assert await registry.tags.list() == []
    assert (await actions(registry))[0] == ("untagged", "bob", "stale")
    with pytest.raises(UnknownTag, match="no dataset is tagged 'gold'"):
        await registry.tags.remove("gold", actor="bob", comment="")


@pytest.mark.parametrize(
    ("name", "run", "actor", "refusal"),
    [
        ("gold", "none", "ann", UnknownRun),
        ("gold", "first", "", Unsigned),
        ("Gold medal", "first", "ann", BadTag),
        ("", "first", "ann", BadTag),
        ("second", "first", "ann", BadTag),
    ],
)
async def test_what_cannot_be_tagged_is_refused_and_nothing_is_kept(
    registry: Harness, name: str, run: str, actor: str, refusal: type[Exception]
) -> None:
    with pytest.raises(refusal):
        await registry.tags.put(name, run, actor=actor, comment="")
    assert await registry.tags.list() == []


async def test_nobody_removes_no_tag(registry: Harness) -> None:
    with pytest.raises(Unsigned):
        await registry.tags.remove("gold", actor="", comment="")
    with pytest.raises(NotFound):
        await registry.tags.remove("gold", actor="ann", comment="")
