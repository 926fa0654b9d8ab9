"""A spec goes while nothing leans on it; whoever reads specs hears of it, and its history stays."""

from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import pytest
from trimtab_contracts import topics
from trimtab_contracts.registry.v1.registry_pb2 import Resource
from trimtab_registry import readback
from trimtab_registry.errors import NeededResource, NotNow, UnknownGeneration, UnknownResource, Unsigned
from trimtab_registry.testing import Harness, documents
from trimtab_runtime.records import Outgoing
from trimtab_runtime.specbook import SpecBook

BY = {"actor": "ann", "comment": ""}


@pytest.fixture
async def registry() -> Harness:
    made = Harness()
    await made.apply()
    return made


def told(registry: Harness) -> Sequence[Outgoing]:
    return [sent for sent in registry.memory.outbox if sent.topic == topics.SPECS.name]


async def delete_all(registry: Harness) -> None:
    for key in ("Model/minutes", "FeatureView/speed", "Source/dropoffs", "Source/pickups"):
        await registry.deleting.delete(*key.split("/"), **BY)


@pytest.mark.parametrize(
    ("key", "by"),
    [
        ("Source/pickups", "Model/minutes"),
        ("Source/dropoffs", "FeatureView/speed, Model/minutes"),
        ("FeatureView/speed", "Model/minutes"),
    ],
)
async def test_what_others_need_stays_and_they_are_named(registry: Harness, key: str, by: str) -> None:
    with pytest.raises(NeededResource, match=f"is needed by {by}: delete those first"):
        await registry.deleting.delete(*key.split("/"), **BY)


async def test_a_model_is_deleted_after_its_tests(registry: Harness) -> None:
    cases = {
        "model": "minutes",
        "direction": [{"name": "far", "change": {"request.distance": "+1"}, "never": "less"}],
    }
    test = {"apiVersion": "trimtab/v1", "kind": "ModelTest", "metadata": {"name": "far"}, "spec": cases}
    await registry.specs.apply([test], "ann")
    book = SpecBook()

    with pytest.raises(NeededResource, match="is needed by ModelTest/far: delete those first"):
        await registry.deleting.delete("Model", "minutes", **BY)
    await registry.deleting.delete("ModelTest", "far", **BY)
    await registry.deleting.delete("Model", "minutes", **BY)

    records = [
        SimpleNamespace(key=sent.key, value=sent.value, offset=at) for at, sent in enumerate(told(registry))
    ]
    await book._hear("specs", 0, records)
    assert not book.tests and not book.models


async def test_a_book_of_specs_forgets_what_was_deleted_and_takes_it_up_again(registry: Harness) -> None:
    await delete_all(registry)
    book = SpecBook()
    records = [
        SimpleNamespace(key=sent.key, value=sent.value, offset=at) for at, sent in enumerate(told(registry))
    ]
    await book._hear("specs", 0, records[:4])
    assert (len(book.sources), len(book.views), len(book.models)) == (2, 1, 1)
    await book._hear("specs", 0, records[4:])
    assert not book.sources and not book.views and not book.models

    changes = await registry.specs.apply(documents(), "bob")
    assert {(change.action, change.generation) for change in changes} == {("created", 3)}
    again = told(registry)[-4:]
    await book._hear(
        "specs", 0, [SimpleNamespace(key=sent.key, value=sent.value, offset=9) for sent in again]
    )
    assert (len(book.sources), len(book.views), len(book.models)) == (2, 1, 1)


async def test_the_history_keeps_every_generation_and_who_took_it_away(registry: Harness) -> None:
    await registry.deleting.delete("Model", "minutes", actor="bob", comment="nobody rides")
    history = await registry.specs.history("Model", "minutes")
    assert [(held.generation, held.applied_by, held.deleted) for held in history] == [
        (1, "ann", False), (2, "bob", True),
    ]  # fmt: skip
    assert (registry.audited()[-1].action, registry.audited()[-1].reason) == ("deleted", "nobody rides")
    assert (await registry.specs.get("Model", "minutes", 1)).document == history[0].document
    with pytest.raises(UnknownResource):
        await registry.specs.get("Model", "minutes")
    with pytest.raises(UnknownGeneration, match="name one from 1 to 2"):
        await registry.specs.get("Model", "minutes", 3)
    with pytest.raises(UnknownResource):
        await registry.deleting.delete("Model", "minutes", **BY)
    with pytest.raises(UnknownResource):
        await registry.specs.history("Model", "nobody")


async def test_a_model_that_serves_or_may_is_not_deleted(registry: Harness) -> None:
    await registry.consider("first")
    with pytest.raises(NotNow, match="version 1 is on its way: take it out of service first"):
        await registry.deleting.delete("Model", "minutes", **BY)
    await registry.serve()
    with pytest.raises(NotNow, match="version 1 is the champion: take it out of service first"):
        await registry.deleting.delete("Model", "minutes", **BY)
    await registry.decisions.withdraw("minutes", actor="ann", comment="forbidden")
    await registry.deleting.delete("Model", "minutes", **BY)


@pytest.mark.parametrize(
    ("rollout", "said"),
    [
        ({"approval": "manual"}, "version 1 waits for approval: reject it first"),
        ({"checks": ["smoke"]}, "version 1 waits for checks: post one that failed first"),
    ],
)
async def test_a_model_of_which_a_version_waits_is_not_deleted(rollout: dict[str, Any], said: str) -> None:
    registry = Harness()
    await registry.apply(rollout=rollout)
    await registry.consider("first")
    with pytest.raises(NotNow, match=said):
        await registry.deleting.delete("Model", "minutes", **BY)


async def test_nobody_deletes_nothing(registry: Harness) -> None:
    with pytest.raises(Unsigned):
        await registry.deleting.delete("Model", "minutes", actor="", comment="")


async def test_a_deletion_that_was_not_told_last_is_told_again_as_the_registry_starts(
    registry: Harness,
) -> None:
    await registry.deleting.delete("Model", "minutes", **BY)
    said = len(told(registry))
    model, stranger = ("specs", "Model/minutes"), ("specs", "Model/stranger")
    words = {
        (sent.topic, (sent.key or b"").decode()): topics.SPECS.decode(sent.value)
        for sent in told(registry)
        if sent.value
    }
    assert model in words, "as if the tombstone had never come"
    assert await readback.heal(registry.store, {**words, stranger: Resource()}) == ["specs/Model/minutes"]
    assert [(sent.key, sent.value) for sent in told(registry)[said:]] == [(b"Model/minutes", None)]
