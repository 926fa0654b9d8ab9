"""Applying specs: all or nothing, every fault at once, topics before news."""

from typing import Any

import pytest
from trimtab_contracts import topics
from trimtab_registry.errors import BadSpecs, ColumnsInUse, FixedPartitions, UnknownResource, Unsigned
from trimtab_registry.formats import schema_faults
from trimtab_registry.testing import Harness, MemoryStore, documents
from trimtab_registry.usecases.applying import Specs
from trimtab_registry.usecases.entities import AuditQuery
from trimtab_registry.usecases.ports import Need
from trimtab_registry.usecases.roles import Roles
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
    return Specs(store, kafka.provide, schema_faults, ManualClock(5_000), Roles())


async def test_what_is_applied_is_kept_audited_and_told(specs: Specs, store: MemoryStore) -> None:
    changes = await specs.apply(documents(), "ann")

    assert [(change.action, change.generation) for change in changes] == [("created", 1)] * 4
    assert [held.key for held in await specs.list("")] == [
        "FeatureView/speed", "Model/minutes", "Source/dropoffs", "Source/pickups",
    ]  # fmt: skip
    entry = (await store.audit(AuditQuery(resource="Model/minutes")))[0]
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
        ("FeatureView/speed", "spec.aggregates.0.functions.0"),
        ("FeatureView/speed", "spec.aggregates.0.where"),
        ("Model/minutes", "spec.label.within"),
        ("Model/minutes", "spec.trainer"),
        ("Model/minutes", "spec.gates.0"),
        ("Model/minutes", "spec.gates.0.metric"),
        ("Modle/x", "kind"),
    }
    assert len(str(caught.value).splitlines()) == len(said)
    assert "'borough' is no field of source 'dropoffs'" in str(caught.value)
    assert "'mean' is of numbers, and 'trip' is a string" in str(caught.value)
    assert "'mph' at character 1 of 'mph < 80' is no field of the source" in str(caught.value)
    assert not store.outbox


AVRO = '{"type": "record", "name": "Pickup", "fields": [{"name": "trip", "type": "string"}]}'
PROTO = 'syntax = "proto3"; message Pickup { string trip = 1; string at = 2; %s }'


@pytest.mark.parametrize(
    ("format", "place", "said"),
    [
        ({"type": "avro", "schema": "{"}, "format.schema", "no row can be read by it (JSONDecodeError:"),
        (
            {"type": "avro", "schema": AVRO},
            "fields.at",
            "'at' may not be missing, and the schema of the format has no",
        ),
        (
            {"type": "protobuf", "schema": PROTO % "B b = 3;", "message": "Pickup"},
            "format.schema",
            'no row can be read by it (line 1:69: "B" is not defined.): mend it',
        ),
        (
            {"type": "protobuf", "schema": PROTO % "", "message": "Ride"},
            "format.schema",
            "no row can be read by it (it has no message 'Ride'): mend it",
        ),
    ],
)
async def test_a_schema_by_which_no_row_can_be_read_is_refused(
    specs: Specs, format: dict[str, str], place: str, said: str
) -> None:
    bad = documents()[:1]
    bad[0]["spec"]["format"] = format
    with pytest.raises(BadSpecs) as caught:
        await specs.apply(bad, "ann", validate_only=True)

    fault = next(each for each in caught.value.faults if each.path == f"spec.{place}")
    assert fault.sentence.startswith(said)


async def test_a_format_whose_schema_has_the_fields_is_applied(specs: Specs) -> None:
    good = documents()[:1]
    fields = " ".join(
        f"double {name} = {number};" for number, name in enumerate(good[0]["spec"]["fields"], 1)
    )
    good[0]["spec"]["format"] = {
        "type": "protobuf", "schema": f'syntax = "proto3"; message A {{ {fields} }}', "message": "A",
    }  # fmt: skip
    assert [change.action for change in await specs.apply(good, "ann")] == ["created"]
    assert [change.action for change in await specs.apply(good, "ann")] == ["unchanged"]


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


async def test_groups_are_fields_of_the_source_whether_a_gate_names_them_or_monitoring(specs: Specs) -> None:
    asked = {"fairness": "borough", "of": "mae"}
    with pytest.raises(BadSpecs) as caught:
        await specs.apply(
            documents(gates=[asked | {"max_difference": 1}], monitoring={"fairness": [asked]}), "ann"
        )

    said = "'borough' is no field of source 'pickups': declare it there, or name another field"
    assert [(fault.path, fault.sentence) for fault in caught.value.faults] == [
        ("spec.gates.0.fairness", said), ("spec.monitoring.fairness.0.fairness", said),
    ]  # fmt: skip


async def test_a_label_is_a_number_or_a_boolean(specs: Specs) -> None:
    wanted = documents(task="binary", rollout={"judge": "log_loss"})
    label, fields = wanted[3]["spec"]["label"], wanted[1]["spec"]["fields"]
    label["value"], fields["late"] = "late", {"type": "boolean"}
    await specs.apply(wanted, "ann")

    fields["late"] = {"type": "string"}
    with pytest.raises(BadSpecs, match="'late' is a string in source 'dropoffs'"):
        await specs.apply(wanted, "ann")


async def test_nothing_is_found_by_an_instant(specs: Specs) -> None:
    wanted = documents()
    for source in wanted[:2]:
        source["spec"]["fields"]["met_at"] = {"type": "timestamp"}
    wanted[2]["spec"]["entity"] = ["zone", "met_at"]
    wanted[3]["spec"]["label"]["on"] = "met_at"
    with pytest.raises(BadSpecs) as caught:
        await specs.apply(wanted, "ann")

    assert [(fault.path, fault.sentence.partition(",")[0]) for fault in caught.value.faults] == [
        ("spec.entity", "'met_at' is a timestamp in source 'dropoffs'"),
        ("spec.label.on", "'met_at' is a timestamp in source 'pickups'"),
        ("spec.label.on", "'met_at' is a timestamp in source 'dropoffs'"),
    ]
    assert "name a field of another type, or declare it a string" in str(caught.value)


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

    assert {fault.resource for fault in caught.value.faults} == {
        "FeatureView/speed", "Model/minutes", "Source/dropoffs",
    }  # fmt: skip


def narrower(**spec: Any) -> dict[str, Any]:
    """Return the source `pickups` with a bound that it did not have."""
    document = documents()[0]
    document["spec"]["fields"]["distance"] = {"type": "number", "max": 100}
    document["spec"] |= spec
    return document


@pytest.mark.parametrize("validate_only", [False, True])
async def test_a_change_that_breaks_producers_or_readers_is_refused_with_the_way_out(
    specs: Specs, store: MemoryStore, validate_only: bool
) -> None:
    await specs.apply(documents(), "ann")
    news = len(store.outbox)
    with pytest.raises(BadSpecs) as caught:
        await specs.apply([narrower(lateness="1h")], "ann", validate_only=validate_only)

    assert list(map(str, caught.value.faults)) == [
        "Source/pickups: spec.lateness: '1h' is shorter than it was, 2h: rows that came in time would be late: "
        "set version: 2 to run both side by side, or keep 2h",
        "Source/pickups: spec.fields.distance.max: 100 was no upper bound: values above it were good: "
        "set version: 2 to run both side by side, or keep no upper bound",
    ]
    assert len(store.outbox) == news


async def test_a_new_major_version_runs_beside_the_old_and_what_leans_on_it_moves_over_when_it_likes(
    specs: Specs, kafka: Kafka
) -> None:
    await specs.apply(documents(), "ann")

    (change,) = await specs.apply([narrower(version=2)], "ann")

    assert (change.name, change.action, change.generation) == ("pickups.v2", "created", 1)
    assert kafka.needs[-1] == Need("Source", "pickups.v2", 2)
    assert [held.name for held in await specs.list("Source")] == ["dropoffs", "pickups", "pickups.v2"]
    (moved,) = await specs.apply(documents(source="pickups.v2")[3:], "ann")
    assert (moved.action, moved.generation) == ("changed", 2)
    wider = narrower(version=2)
    wider["spec"]["fields"]["distance"]["max"] = 50
    with pytest.raises(BadSpecs, match=r"Source/pickups\.v2: spec\.fields\.distance\.max: .* set version: 3"):
        await specs.apply([wider], "ann")


async def test_a_version_that_is_not_applied_is_no_source(specs: Specs) -> None:
    with pytest.raises(BadSpecs, match=r"'pickups\.v2' is no source: apply it too, or name one of"):
        await specs.apply(documents(source="pickups.v2"), "ann")
    faulty = narrower(version=2, lateness="soon")
    with pytest.raises(BadSpecs) as caught:
        await specs.apply([*documents(source="pickups.v2"), faulty], "ann")
    assert {fault.resource for fault in caught.value.faults} == {"Source/pickups.v2"}


async def test_two_sources_that_kafka_cannot_tell_apart_are_refused(specs: Specs) -> None:
    twin = documents()[0]
    twin["metadata"]["name"] = "pickups_v2"
    with pytest.raises(BadSpecs, match=r"'pickups\.v2' and 'pickups_v2' are one name to Kafka"):
        await specs.apply([twin, narrower(version=2)], "ann")


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


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"aggregates": [{"field": "minutes", "functions": ["max"], "windows": ["1d"]}]}, "it would be gone"),
        ({"aggregates": [{"field": "minutes", "functions": ["mean"], "windows": ["1d"], "where": "minutes < 90"}]},
         "its `where` was None and would be 'minutes < 90'"),
        ({"hop": "12h"}, "its hop was '6h' and would be '12h'"),
        ({"entity": "trip"}, "its entity was 'zone' and would be 'trip'"),
    ],
)  # fmt: skip
async def test_a_column_that_a_warm_version_takes_is_kept_as_it_is(change: dict[str, Any], said: str) -> None:
    registry = Harness()
    await registry.apply()
    await registry.consider("first", features=["pace = request.distance / speed.minutes_mean_1d"])
    changed = documents(features=["request.distance"])
    changed[2]["spec"] |= change
    with pytest.raises(ColumnsInUse) as refusal:
        await registry.specs.apply(changed, "ann")
    [fault] = refusal.value.faults
    assert fault.resource == "FeatureView/speed"
    assert said in fault.sentence
    assert "model 'minutes' version 1" in fault.sentence

    more = documents()
    more[2]["spec"]["aggregates"].append({"field": "distance", "functions": ["sum"], "windows": ["1d"]})
    assert (await registry.specs.apply(more, "ann"))[2].action == "changed"


def a_second_view(name: str) -> dict[str, Any]:
    """Return the view `speed` under another name."""
    document = documents()[2]
    document["metadata"]["name"] = name
    return document


@pytest.mark.parametrize(
    "taken",
    [
        "speed.minutes_mean_1d",
        "pace = request.distance - speed.minutes_mean_1d",
        "pace = request.distance-speed.minutes_mean_1d",
        "pace = request.distance-zone-speed.minutes_mean_1d-speed.minutes_mean_1d",
    ],
)
async def test_a_column_in_use_is_seen_however_it_is_written(taken: str) -> None:
    registry = Harness()
    await registry.apply()
    await registry.specs.apply([a_second_view("zone-speed")], "ann")
    await registry.consider("first", features=[taken])
    changed = documents(features=["request.distance"])
    changed[2]["spec"]["hop"] = "12h"

    with pytest.raises(ColumnsInUse):
        await registry.specs.apply(changed, "ann")


async def test_a_column_of_a_view_whose_name_ends_in_another_views_is_not_that_views() -> None:
    registry = Harness()
    await registry.apply()
    await registry.specs.apply([a_second_view("zone-speed")], "ann")
    await registry.consider("first", features=["pace = request.distance-zone-speed.minutes_mean_1d"])
    changed = documents(features=["request.distance"])
    changed[2]["spec"]["hop"] = "12h"

    assert (await registry.specs.apply(changed, "ann"))[2].action == "changed"


async def test_a_version_that_a_later_view_has_made_unreadable_still_holds_its_columns() -> None:
    registry = Harness()
    await registry.apply()
    await registry.consider("first", features=["pace = request.distance-speed.minutes_mean_1d"])
    changed = documents(features=["request.distance"])
    await registry.specs.apply([*changed, a_second_view("distance-speed")], "ann")
    changed[2]["spec"]["hop"] = "12h"

    with pytest.raises(ColumnsInUse):
        await registry.specs.apply(changed, "ann")


async def test_a_column_that_no_warm_version_takes_may_change() -> None:
    registry = Harness()
    await registry.apply()
    await registry.consider("first", features=["request.distance"])
    changed = documents()
    changed[2]["spec"]["hop"] = "12h"

    assert (await registry.specs.apply(changed, "ann"))[2].action == "changed"


async def test_an_expression_leans_on_the_views_that_it_reads(specs: Specs) -> None:
    written = documents(features=["request.distance", "pace = request.distance / speed.minutes_mean_1d"])
    await specs.apply(written, "ann")
    written[2]["spec"]["aggregates"][0]["windows"] = ["12h"]

    with pytest.raises(BadSpecs) as caught:
        await specs.apply([written[2]], "ann")

    (fault,) = caught.value.faults
    assert (fault.resource, fault.path) == ("Model/minutes", "spec.features.1")
    assert "names column 'minutes_mean_1d', which the view lacks" in str(fault)
    assert "at character 20 of 'request.distance / speed.minutes_mean_1d'" in str(fault)


async def test_a_view_is_rebuilt_as_its_next_generation_and_that_is_audited(
    specs: Specs, store: MemoryStore
) -> None:
    await specs.apply(documents(), "ann")
    before = await specs.get("FeatureView", "speed")
    told = len(store.outbox)
    rebuilt = await specs.rebuild("speed", "bob", "history came")

    assert rebuilt == await specs.get("FeatureView", "speed")
    assert (rebuilt.generation, rebuilt.document) == (2, before.document)
    entry = (await store.audit(AuditQuery(resource="FeatureView/speed")))[0]
    assert (entry.action, entry.actor, entry.reason) == ("rebuilt", "bob", "history came")
    assert [record.topic for record in store.outbox[told:]] == [topics.SPECS.name, topics.AUDIT.name]
    assert {change.action for change in await specs.apply(documents(), "ann")} == {"unchanged"}


async def test_only_a_view_that_is_there_is_rebuilt_and_not_by_nobody(specs: Specs) -> None:
    await specs.apply(documents(), "ann")

    with pytest.raises(UnknownResource, match="FeatureView 'pickups'"):
        await specs.rebuild("pickups", "ann", "")
    with pytest.raises(Unsigned):
        await specs.rebuild("speed", "", "")


async def test_events_that_are_not_kept_long_enough_for_those_who_read_them_are_a_fault(specs: Specs) -> None:
    applied = documents()
    await specs.apply(applied, "ann")
    applied[0]["spec"]["keep"] = "20d"
    applied[1]["spec"]["keep"] = "40d"
    with pytest.raises(BadSpecs) as caught:
        await specs.apply(applied, "ann")

    assert {(fault.resource, fault.path, fault.sentence) for fault in caught.value.faults} == {
        (
            "FeatureView/speed",
            "spec.ttl",
            "the ttl is 60d, and source 'dropoffs' keeps its events for 40d: shorten the one or raise the other's keep",
        ),
        (
            "Model/minutes",
            "spec.trainer.window",
            "training rows reach back 90d, and source 'pickups' keeps its events for 20d: shorten the one or raise the "
            "other's keep",
        ),
        (
            "Model/minutes",
            "spec.trainer.window",
            "training rows reach back, with the longest window of view 'speed', 91d, and source 'dropoffs' keeps its "
            "events for 40d: shorten the one or raise the other's keep",
        ),
    }
    applied[0]["spec"]["keep"], applied[1]["spec"]["keep"] = "90d", "91d"
    changes = await specs.apply(applied, "ann", validate_only=True)
    assert [change.action for change in changes][:2] == ["changed", "changed"]


def a_table(name: str = "zones", **changes: Any) -> dict[str, Any]:
    spec = {
        "parquet": "s3://bucket/zones.parquet",
        "key": "zone",
        "refresh": "1h",
        "fields": {
            "zone": {"type": "integer"},
            "area": {"type": "number", "unit": "km2"},
            "airport": {"type": "boolean"},
        },
    }
    return {"kind": "Table", "metadata": {"name": name}, "spec": spec | changes}


async def test_a_table_has_one_topic_of_one_partition(specs: Specs, kafka: Kafka) -> None:
    await specs.apply([a_table()], "ann")

    assert kafka.needs == [Need("Table", "zones", 1)]


async def test_a_feature_that_finds_nothing_in_a_table_is_named_whichever_of_them_changes(
    specs: Specs,
) -> None:
    model = documents(features=["zones[zone].area", "x = request.distance / zones[zone].airport"])
    with pytest.raises(BadSpecs) as none:
        await specs.apply(model, "ann")
    assert [fault.path for fault in none.value.faults] == ["spec.features.0", "spec.features.1"]
    assert "names table 'zones', which is not there" in none.value.faults[0].sentence

    await specs.apply([*model, a_table()], "ann")
    fields = a_table()["spec"]["fields"]
    del fields["airport"]
    with pytest.raises(BadSpecs) as gone:
        await specs.apply([a_table(fields=fields)], "ann")
    [fault] = gone.value.faults
    assert (fault.resource, fault.path) == ("Model/minutes", "spec.features.1")
    assert "names column 'airport', which the table lacks" in fault.sentence


async def test_a_feature_of_a_table_that_is_itself_faulty_is_no_further_fault(specs: Specs) -> None:
    with pytest.raises(BadSpecs) as caught:
        await specs.apply([*documents(features=["zones[zone].area"]), a_table(refresh="often")], "ann")

    assert [fault.resource for fault in caught.value.faults] == ["Table/zones"]


async def test_a_table_goes_on_with_its_key_and_its_types() -> None:
    specs = Harness().specs
    await specs.apply([a_table()], "ann")
    fields = {**a_table()["spec"]["fields"], "area": {"type": "integer"}}
    with pytest.raises(BadSpecs) as caught:
        await specs.apply([a_table(fields=fields)], "ann")

    [fault] = caught.value.faults
    assert (fault.path, fault.sentence) == (
        "spec.fields.area.type",
        "'integer' was 'number', which the table's history holds: keep it, or take the column in by another name",
    )
    [change] = await specs.apply([a_table(refresh="2h", parquet="/data/zones.parquet")], "ann")
    assert change.action == "changed"


@pytest.mark.parametrize("taken", ["zones[zone].area", "x = request.distance / zones[zone].area"])
@pytest.mark.parametrize(
    ("area", "said"),
    [
        (None, "it would be gone"),
        ({"type": "number", "unit": "mi2"}, "its unit was 'km2' and would be 'mi2'"),
    ],
)
async def test_a_column_of_a_table_that_a_warm_version_takes_is_kept_as_it_is(
    taken: str, area: dict[str, str] | None, said: str
) -> None:
    registry = Harness()
    await registry.apply()
    await registry.specs.apply([a_table(), a_table("my-zones")], "ann")
    await registry.consider("first", features=[taken])
    fields = {**a_table()["spec"]["fields"], "area": area}
    if area is None:
        del fields["area"]

    with pytest.raises(ColumnsInUse) as refusal:
        await registry.specs.apply([a_table(fields=fields)], "ann")

    [fault] = refusal.value.faults
    assert fault.resource == "Table/zones"
    assert fault.sentence == (
        f"'area' is a feature of model 'minutes' version 1, and {said}: keep it as it is and put the new one beside it, "
        "or in a table of another name"
    )
    await registry.specs.apply([a_table("my-zones", fields=fields)], "ann")


async def test_a_trainers_wheel_is_named_by_its_digest_and_not_by_a_path_that_is_elsewhere(
    specs: Specs,
) -> None:
    applied = documents()
    trainer = {"kind": "own", "window": "90d", "wheel": "dist/mine-1.0-py3-none-any.whl"}
    model = next(each for each in applied if each["kind"] == "Model")
    model["spec"]["trainer"] = trainer
    with pytest.raises(BadSpecs) as caught:
        await specs.apply(applied, "ann")

    [fault] = caught.value.faults
    assert (fault.path, fault.sentence) == (
        "spec.trainer.wheel",
        "'dist/mine-1.0-py3-none-any.whl' is a path: `trimtab apply` sends the file, and names it by its digest",
    )
    trainer["wheel"] = f"mine-1.0-py3-none-any.whl@sha256:{'0' * 64}"
    await specs.apply(applied, "ann")


def of_classes(*classes: Any, task: str = "multiclass", kind: str = "string", **more: Any) -> Any:
    """Return documents whose model predicts the classes of a field `mood`."""
    wanted = documents(task=task, rollout={}, **more)
    wanted[1]["spec"]["fields"]["mood"] = {"type": kind}
    wanted[3]["spec"]["label"] |= {"value": "mood", "classes": list(classes)}
    return wanted


async def test_a_label_may_be_one_of_some_classes(specs: Specs) -> None:
    await specs.apply(of_classes("bad", "fair", "good"), "ann")
    await specs.apply(of_classes("bad", "fair", "good", "superb"), "ann")

    for renumbered in (("good", "fair", "bad", "superb"), ("bad", "fair", "good")):
        with pytest.raises(BadSpecs, match="add new ones at the end, or apply a model of another name"):
            await specs.apply(of_classes(*renumbered), "ann")


@pytest.mark.parametrize(
    ("wanted", "said"),
    [
        (of_classes("bad", "good"), "too few for multiclass: name all values"),
        (of_classes("bad", "fair", "bad"), "'bad' is named twice: drop one"),
        (of_classes("bad", "fair", "good", task="binary"), "are no two classes: name the negative and the"),
        (of_classes(1, 2, 3.0, kind="number"), "is a number in source 'dropoffs', and a class is a string"),
        (of_classes(False, True, task="binary"), "write the text in quotes, like 'yes'"),
        (of_classes("a", "b", "c", gates=[{"metric": "mae", "at_most": 1}]), "'mae' is not for multiclass"),
    ],
)
async def test_classes_that_will_not_do_are_told(specs: Specs, wanted: Any, said: str) -> None:
    with pytest.raises(BadSpecs, match=said):
        await specs.apply(wanted, "ann")


async def test_a_label_that_is_a_text_needs_its_classes(specs: Specs) -> None:
    wanted = of_classes(task="binary")
    wanted[1]["spec"]["fields"]["mood"]["enum"] = ["no", "yes"]
    with pytest.raises(BadSpecs, match=r"or say in label\.classes what it can be"):
        await specs.apply(wanted, "ann")

    wanted[3]["spec"]["label"]["classes"] = ["no", "yess"]
    with pytest.raises(BadSpecs, match="'yess' is none of no, yes, which is all that 'mood' can be"):
        await specs.apply(wanted, "ann")

    wanted[3]["spec"]["label"]["classes"] = ["no", "yes"]
    await specs.apply(wanted, "ann")
