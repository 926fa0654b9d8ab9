"""Applying specs: all or nothing, every fault at once, topics before news."""

import pytest
from trimtab_contracts import topics
from trimtab_registry.errors import BadSpecs, FixedPartitions, UnknownResource, Unsigned
from trimtab_registry.testing import MemoryStore, documents
from trimtab_registry.usecases.applying import Specs
from trimtab_registry.usecases.ports import Need
from trimtab_runtime.clock import ManualClock
from trimtab_runtime.errors import Unavailable


class Kafka:
    """Remembers which topics were asked for, and whether anybody had heard of the spec by then."""

    def __init__(self, store: MemoryStore) -> None:
        self.store = store
        self.needs: list[Need] = []
        self.is_away = False

    async def provide(self, needs: list[Need]) -> None:
        if self.is_away:
            raise Unavailable("Kafka is away")
        told = {record.key for record in self.store.outbox if record.topic == topics.SPECS.name}
        assert not told & {f"{need.kind}/{need.name}".encode() for need in needs}
        self.needs += needs


@pytest.fixture
def store() -> MemoryStore:
    return MemoryStore()


@pytest.fixture
def kafka(store: MemoryStore) -> Kafka:
    return Kafka(store)


@pytest.fixture
def specs(store: MemoryStore, kafka: Kafka) -> Specs:
    return Specs(store, kafka.provide, ManualClock(5_000))


async def test_what_is_applied_is_kept_audited_and_told(specs: Specs, store: MemoryStore) -> None:
    changes = await specs.apply(documents(), "ann")

    assert [(change.action, change.generation) for change in changes] == [("created", 1)] * 4
    assert [held.key for held in await specs.list("")] == [
        "FeatureView/speed", "Model/minutes", "Source/dropoffs", "Source/pickups",
    ]  # fmt: skip
    entry = (await specs.audit("Model/minutes", 0))[0]
    assert (entry.action, entry.actor, entry.at_ms) == ("created", "ann", 5_000)
    told = [record.key for record in store.outbox if record.topic == topics.SPECS.name]
    assert told == [b"Source/pickups", b"Source/dropoffs", b"FeatureView/speed", b"Model/minutes"]


async def test_topics_are_made_before_anybody_hears_of_the_spec(specs: Specs, kafka: Kafka) -> None:
    applied = documents()
    applied[1]["spec"]["partitions"] = 6
    await specs.apply(applied, "ann")

    assert [(need.kind, need.name, need.partitions) for need in kafka.needs] == [
        ("Source", "pickups", 2), ("Source", "dropoffs", 6), ("FeatureView", "speed", 6),
    ]  # fmt: skip


async def test_without_kafka_nothing_is_applied(specs: Specs, kafka: Kafka, store: MemoryStore) -> None:
    kafka.is_away = True
    with pytest.raises(Unavailable):
        await specs.apply(documents(), "ann")

    assert not await specs.list("")
    assert not store.outbox


async def test_an_unchanged_document_gets_no_new_generation(specs: Specs, store: MemoryStore) -> None:
    await specs.apply(documents(), "ann")
    told = len(store.outbox)
    changes = await specs.apply(documents(rollout={"strategy": "shadow", "cap": 60}), "bob")

    assert [(change.name, change.action, change.generation) for change in changes] == [
        ("pickups", "unchanged", 1), ("dropoffs", "unchanged", 1), ("speed", "unchanged", 1), ("minutes", "changed", 2),
    ]  # fmt: skip
    assert [record.topic for record in store.outbox[told:]] == [topics.SPECS.name, topics.AUDIT.name]


async def test_numbers_that_travelled_as_doubles_are_the_same_document(specs: Specs) -> None:
    first = documents()
    first[0]["spec"]["partitions"] = 2
    again = documents()
    again[0]["spec"]["partitions"] = 2.0
    await specs.apply(first, "ann")

    assert {change.action for change in await specs.apply(again, "ann")} == {"unchanged"}


async def test_all_faults_of_all_documents_are_said_at_once(specs: Specs, store: MemoryStore) -> None:
    bad = documents(
        source="rides",
        label={"source": "dropoffs", "on": "ticket", "value": "trip", "within": "4 parsecs"},
        gates=[{"metric": "log_loss"}],
    )
    bad[0]["spec"]["lateness"] = -1
    bad[0]["spec"]["colour"] = "red"
    bad[2]["spec"]["entity"] = "borough"
    bad[2]["spec"]["aggregates"][0] |= {"field": "trip", "where": "mph < 80"}
    del bad[3]["spec"]["trainer"]
    bad.append({"kind": "Modle", "metadata": {"name": "x"}})
    with pytest.raises(BadSpecs) as caught:
        await specs.apply(bad, "ann")

    said = {(fault.resource, fault.path) for fault in caught.value.faults}
    assert said == {
        ("Source/pickups", "spec.lateness"),
        ("Source/pickups", "spec.colour"),
        ("FeatureView/speed", "spec.entity"),
        ("FeatureView/speed", "spec.aggregates.0.field"),
        ("FeatureView/speed", "spec.aggregates.0.where"),
        ("Model/minutes", "spec.label.within"),
        ("Model/minutes", "spec.trainer"),
        ("Model/minutes", "spec.gates.0"),
        ("Model/minutes", "spec.gates.0.metric"),
        ("Modle/x", "kind"),
    }
    assert len(str(caught.value).splitlines()) == len(said)
    assert "'borough' is no field of source 'dropoffs'" in str(caught.value)
    assert not store.outbox


async def test_a_model_must_fit_what_it_leans_on(specs: Specs) -> None:
    with pytest.raises(BadSpecs) as caught:
        await specs.apply(
            documents(
                source="rides",
                label={"source": "dropoffs", "on": "ticket", "value": "trip", "within": "4h"},
                gates=[{"metric": "mae", "slices": "borough", "max_worse": 0.1}],
            ),
            "ann",
        )

    assert [fault.path for fault in caught.value.faults] == [
        "spec.source", "spec.label.on", "spec.label.value",
    ]  # fmt: skip
    assert "name one of: dropoffs, pickups" in str(caught.value)


async def test_a_label_is_a_number_or_a_boolean(specs: Specs) -> None:
    wanted = documents(task="binary", rollout={"judge": "log_loss"})
    label, fields = wanted[3]["spec"]["label"], wanted[1]["spec"]["fields"]
    label["value"], fields["late"] = "late", {"type": "boolean"}
    await specs.apply(wanted, "ann")

    fields["late"] = {"type": "string"}
    with pytest.raises(BadSpecs, match="'late' is a string in source 'dropoffs'"):
        await specs.apply(wanted, "ann")


async def test_every_feature_that_means_nothing_is_named(specs: Specs) -> None:
    features = ["speed.median", "request.distance", "request.colour", "pace.*"]
    with pytest.raises(BadSpecs) as caught:
        await specs.apply(documents(features=features), "ann")

    assert [fault.path for fault in caught.value.faults] == [
        "spec.features.0", "spec.features.2", "spec.features.3",
    ]  # fmt: skip
    assert "did you mean" in str(caught.value) or "there are" in str(caught.value)


async def test_a_feature_named_twice_is_refused(specs: Specs) -> None:
    with pytest.raises(BadSpecs, match=r"'request\.distance' is named twice"):
        await specs.apply(documents(features=["request.distance", "request.distance"]), "ann")


async def test_a_feature_of_a_view_that_is_itself_faulty_is_no_further_fault(specs: Specs) -> None:
    bad = documents()
    bad[2]["spec"]["hop"] = "7h"
    with pytest.raises(BadSpecs) as caught:
        await specs.apply(bad, "ann")

    assert {fault.resource for fault in caught.value.faults} == {"FeatureView/speed"}


async def test_what_was_applied_before_counts(specs: Specs) -> None:
    sources, model = documents()[:3], documents()[3:]
    await specs.apply(sources, "ann")
    await specs.apply(model, "ann")

    assert (await specs.get("Model", "minutes")).generation == 1


async def test_a_change_that_breaks_an_applied_spec_is_refused(specs: Specs) -> None:
    await specs.apply(documents(), "ann")
    narrower = documents()[1:2]
    del narrower[0]["spec"]["fields"]["minutes"]
    with pytest.raises(BadSpecs) as caught:
        await specs.apply(narrower, "ann")

    assert {fault.resource for fault in caught.value.faults} == {"FeatureView/speed", "Model/minutes"}


async def test_the_partitions_of_an_existing_source_stay(specs: Specs) -> None:
    await specs.apply(documents(), "ann")
    wider = documents()[1:2]
    wider[0]["spec"]["partitions"] = 8
    with pytest.raises(FixedPartitions, match=r"8 partitions are asked for, where its topics have 2"):
        await specs.apply(wider, "ann")


async def test_one_name_twice_in_a_request_is_refused(specs: Specs) -> None:
    with pytest.raises(BadSpecs, match="two documents"):
        await specs.apply([*documents(), documents()[0]], "ann")


async def test_what_is_only_validated_changes_nothing_and_is_told_as_if_it_had(
    specs: Specs, store: MemoryStore
) -> None:
    await specs.apply(documents()[:1], "ann")
    news = len(store.outbox)
    wider = documents()
    wider[0]["spec"]["lateness"] = "9h"

    told = await specs.apply(wider, "ann", validate_only=True)

    assert [(change.action, change.generation) for change in told] == [
        ("changed", 2), ("created", 1), ("created", 1), ("created", 1),
    ]  # fmt: skip
    assert len(store.outbox) == news
    assert len(await specs.list("")) == 1
    with pytest.raises(BadSpecs):
        await specs.apply(documents(source="rides"), "ann", validate_only=True)


async def test_nobody_cannot_apply(specs: Specs) -> None:
    with pytest.raises(Unsigned):
        await specs.apply(documents(), "")


async def test_an_unknown_resource_is_not_found(specs: Specs) -> None:
    with pytest.raises(UnknownResource, match="there is no Source 'x'"):
        await specs.get("Source", "x")
