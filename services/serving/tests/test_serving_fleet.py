"""From what is wanted to what answers, without Kafka."""

import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from trimtab_contracts.registry.v1.registry_pb2 import Rollout, VersionRef
from trimtab_contracts.serving.v1.serving_pb2 import PredictionBatch
from trimtab_core import specs
from trimtab_core.lookup import FROM_EVER
from trimtab_runtime import artifacts
from trimtab_runtime.clock import SystemClock, iso
from trimtab_runtime.errors import Conflict, NotFound
from trimtab_serving import fleet, testing, usecases
from trimtab_serving.fleet import Standing
from trimtab_serving.messages import Messages
from trimtab_serving.predictionlog import Answered
from trimtab_serving.rows import RowReader
from trimtab_serving.testing import Instance

PROJECT = testing.project()
MODEL = PROJECT.model.name
MIDNIGHT = 19_700 * 86_400_000


@pytest.fixture
async def instance(tmp_path: Path) -> AsyncIterator[Instance]:
    made = Instance(tmp_path / "state")
    await made.hear(*PROJECT.specs)
    yield made
    made.close()


def version(path: Path, number: int) -> VersionRef:
    """Return a version that answers its own number, plus the distance."""
    return testing.version(path, number, PROJECT.features, testing.linear_model([1, 0, 0], bias=number))


def rows(*trips: str) -> list[bytes]:
    return [
        json.dumps({"trip": trip, "at": iso(MIDNIGHT), "zone": 1, "distance": 0}).encode() for trip in trips
    ]


def asked(instance: Instance, *trips: str) -> list[float]:
    answered: list[float] = instance.predictions.predict(MODEL, rows(*trips)).predictions.tolist()
    return answered


def standing(instance: Instance) -> Standing:
    [found] = instance.fleet.standings()
    return found


def logged(instance: Instance) -> list[tuple[Answered, int]]:
    return [row for batch in instance.log.drain([]) for row in batch.rows]


def write(wanted: VersionRef, content: bytes) -> None:
    Path(wanted.model.uri).write_bytes(content)


def take_away(wanted: VersionRef) -> bytes:
    content = Path(wanted.model.uri).read_bytes()
    Path(wanted.model.uri).unlink()
    return content


def names(path: Path, pattern: str) -> list[str]:
    return [found.name for found in path.glob(pattern)]


def delete(path: Path, pattern: str) -> None:
    for found in list(path.glob(pattern)):
        found.unlink()


async def test_a_model_answers_once_its_first_version_is_warm(instance: Instance, tmp_path: Path) -> None:
    with pytest.raises(Conflict, match="none has been promoted"):
        instance.predictions.predict(MODEL, rows("t"))

    await instance.hear(testing.deployment(MODEL, 1, version(tmp_path, 1)))

    assert asked(instance, "t") == [1]
    assert standing(instance).versions == [(1, True, "")]
    assert (standing(instance).generation, standing(instance).champion_version) == (1, 1)


async def test_a_lower_generation_changes_nothing(instance: Instance, tmp_path: Path) -> None:
    await instance.hear(testing.deployment(MODEL, 5, version(tmp_path, 2)))
    await instance.hear(testing.deployment(MODEL, 4, version(tmp_path, 1)))

    assert asked(instance, "t") == [2]
    assert standing(instance).generation == 5


async def test_a_challenger_on_shadow_scores_and_answers_nobody(instance: Instance, tmp_path: Path) -> None:
    shadow = Rollout(id="r", strategy="shadow", share=50)
    await instance.hear(
        testing.deployment(MODEL, 1, version(tmp_path, 1), challenger=version(tmp_path, 2), rollout=shadow)
    )

    assert asked(instance, *map(str, range(50))) == [1] * 50
    found = logged(instance)
    assert {float(answered.challengers[0][at]) for answered, at in found if answered.challengers} == {2}
    assert not any(answered.arms[at] for answered, at in found)


async def test_a_canary_answers_its_share_and_each_trip_gets_the_same_arm(
    instance: Instance, tmp_path: Path
) -> None:
    canary = Rollout(id="r", strategy="canary", share=30)
    await instance.hear(
        testing.deployment(MODEL, 1, version(tmp_path, 1), challenger=version(tmp_path, 2), rollout=canary)
    )
    trips = list(map(str, range(1000)))

    first, again = asked(instance, *trips), asked(instance, *trips)

    assert first == again
    assert 250 < first.count(2) < 350
    answer = instance.predictions.predict(MODEL, rows(*trips))
    assert answer.predictions.tolist() == list(answer.versions)
    for answered, at in logged(instance):
        assert answered.arms[at] == (first[int(answered.keys[at])] == 2)


async def test_a_challenger_that_has_no_answer_costs_its_caller_nothing(
    instance: Instance, tmp_path: Path
) -> None:
    canary = Rollout(id="r", strategy="canary", share=100)
    await instance.hear(
        testing.deployment(MODEL, 1, version(tmp_path, 1), challenger=version(tmp_path, 2), rollout=canary)
    )
    (challenger,) = instance.board.current.of(MODEL).challengers
    object.__setattr__(challenger, "output", "a name it does not have")

    assert asked(instance, "t") == [1]
    [(answered, at)] = logged(instance)
    assert np.isnan(answered.challengers[0][at])
    assert not answered.arms[at]
    assert min(answered.took_us) > 0, "it was asked, and failed"


async def test_how_long_both_versions_ran_is_logged_once_a_request(
    instance: Instance, tmp_path: Path
) -> None:
    await instance.hear(testing.deployment(MODEL, 1, version(tmp_path, 1)))
    asked(instance, "alone")
    shadow = Rollout(id="r", strategy="shadow")
    await instance.hear(
        testing.deployment(MODEL, 2, version(tmp_path, 1), challenger=version(tmp_path, 2), rollout=shadow)
    )
    asked(instance, *map(str, range(20)))

    written = Messages("here", SystemClock())
    batches = [
        PredictionBatch.FromString(written.predictions(batch).value or b"")
        for batch in instance.log.drain([])
        if batch.rows
    ]

    alone = [batch for batch in batches if not batch.challenger_version]
    assert [len(batch.challenger_us) for batch in alone] == [0]
    both = [batch for batch in batches if batch.challenger_version]
    assert all(len(batch.champion_us) == len(batch.challenger_us) == len(batch.ids) for batch in both)
    assert sum(us > 0 for batch in both for us in batch.challenger_us) == 1
    assert sum(us > 0 for batch in both for us in batch.champion_us) == 1


async def test_how_long_a_version_ran_is_without_the_making_of_features_that_it_alone_takes(
    instance: Instance, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = testing.version(tmp_path, 2, PROJECT.features[:2], testing.linear_model([1, 0]))
    shadow = Rollout(id="r", strategy="shadow")
    await instance.hear(testing.deployment(MODEL, 1, version(tmp_path, 1), challenger=other, rollout=shadow))
    now_ns, make = [0], RowReader.inputs

    def slowly(reader: RowReader, *taken: Any) -> Any:
        now_ns[0] += 60_000_000_000
        return make(reader, *taken)

    monkeypatch.setattr(RowReader, "inputs", slowly)
    monkeypatch.setattr(usecases, "perf_counter_ns", lambda: now_ns[0])
    asked(instance, "t")

    [(answered, _)] = logged(instance)
    assert (now_ns[0], list(answered.took_us)) == (120_000_000_000, [1, 1])


async def test_a_version_that_cannot_be_loaded_says_why_and_unseats_nobody(
    instance: Instance, tmp_path: Path
) -> None:
    await instance.hear(testing.deployment(MODEL, 1, version(tmp_path, 1)))
    rubbish = VersionRef(number=2, model=artifacts.put(tmp_path, b"no model"), features=PROJECT.features)

    await instance.hear(testing.deployment(MODEL, 2, rubbish))

    assert asked(instance, "t") == [1]
    state = standing(instance)
    assert (state.generation, state.champion_version) == (2, 1)
    [(number, warm, error)] = state.versions
    assert (number, warm) == (2, False)
    assert error.startswith(f"version 2 of model '{MODEL}' is no model that ONNX Runtime can open")


@pytest.mark.parametrize(
    ("features", "onnx", "sentence"),
    [
        (PROJECT.features[:2], testing.linear_model([1, 0, 0]), "takes 3 features and its record names 2"),
        (
            ("request.height",),
            testing.linear_model([1]),
            "cannot be given its features: feature 'request.height'",
        ),
        (PROJECT.features, testing.linear_model([1, 0, 0], bias=float("nan")), "gives nan for known rows"),
    ],
    ids=["width", "unknown feature", "no number"],
)
async def test_what_is_wrong_with_a_version_is_reported(
    instance: Instance, tmp_path: Path, features: tuple[str, ...], onnx: bytes, sentence: str
) -> None:
    await instance.hear(testing.deployment(MODEL, 1, testing.version(tmp_path, 1, features, onnx)))

    [(_, _, error)] = standing(instance).versions
    assert sentence in error
    with pytest.raises(Conflict, match="has no live version"):
        asked(instance, "t")


async def test_a_version_that_lacked_a_view_is_loaded_once_the_view_is_applied(tmp_path: Path) -> None:
    made = Instance(tmp_path / "state")
    without_view = [record for record in PROJECT.specs if b"FeatureView" not in (record.key or b"")]
    await made.hear(*without_view, testing.deployment(MODEL, 1, version(tmp_path, 1)))
    assert "names view" in standing(made).versions[0][2]

    await made.hear(*PROJECT.specs)

    assert asked(made, "t") == [1]
    made.close()


async def test_an_artifact_that_was_tampered_with_is_not_loaded(instance: Instance, tmp_path: Path) -> None:
    tampered = version(tmp_path, 1)
    write(tampered, testing.linear_model([9, 9, 9]))

    await instance.hear(testing.deployment(MODEL, 1, tampered))

    [(_, _, error)] = standing(instance).versions
    assert "is not what its digest" in error


async def test_a_version_that_names_no_artifact_is_not_loaded(instance: Instance, tmp_path: Path) -> None:
    await instance.hear(testing.deployment(MODEL, 1, version(tmp_path, 1)))
    await instance.hear(testing.deployment(MODEL, 2, VersionRef(number=2, features=PROJECT.features)))

    assert asked(instance, "t") == [1]
    [(_, _, error)] = standing(instance).versions
    assert "is named without a digest" in error


async def test_an_artifact_that_comes_late_is_waited_for_before_anything_is_reported(
    instance: Instance, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fleet, "PATIENCE", 3)
    late = version(tmp_path, 1)
    content = take_away(late)

    await instance.hear(testing.deployment(MODEL, 1, late))
    assert standing(instance).versions == [(1, False, "")]
    await instance.fleet.settle()
    await instance.fleet.settle()
    assert "is not there" in standing(instance).versions[0][2]

    write(late, content)
    await instance.fleet.settle()
    assert standing(instance).versions == [(1, True, "")]


async def test_a_version_is_warmed_on_rows_of_its_reference(instance: Instance, tmp_path: Path) -> None:
    table = pa.table({name: pa.array([float("inf")]) for name in PROJECT.features})
    found = testing.version(tmp_path, 1, PROJECT.features, testing.linear_model([1, 1, 1]), table)

    await instance.hear(testing.deployment(MODEL, 1, found))

    [(_, _, error)] = standing(instance).versions
    assert "for known rows" in error


async def test_a_version_that_answers_otherwise_than_its_record_says_is_not_served(
    instance: Instance, tmp_path: Path
) -> None:
    live, onnx = version(tmp_path, 1), testing.linear_model([1, 0, 0], bias=9)
    await instance.hear(testing.deployment(MODEL, 1, live))
    shown = pa.table({name: pa.array([0.0, 1.0, 2.0]) for name in PROJECT.features})

    def recorded(number: int, *answers: float) -> VersionRef:
        kept = json.dumps({"rows": [0, 2], "answers": [[answer] for answer in answers]})
        reference = shown.replace_schema_metadata({"examples": kept})
        return testing.version(tmp_path, number, PROJECT.features, onnx, reference)

    await instance.hear(testing.deployment(MODEL, 2, recorded(2, 9, 12), previous=live))
    [(_, is_warm, error), _] = standing(instance).versions
    assert (is_warm, asked(instance, "t")) == (False, [1])
    assert error.startswith(
        f"version 2 of model '{MODEL}' gives 11 where its record says 12: its file is not"
    )

    await instance.hear(testing.deployment(MODEL, 3, recorded(3, 9, 11), previous=live))
    assert asked(instance, "t") == [9]


async def test_the_previous_champion_is_back_at_once(instance: Instance, tmp_path: Path) -> None:
    one, two = version(tmp_path, 1), version(tmp_path, 2)
    await instance.hear(testing.deployment(MODEL, 1, one))
    await instance.hear(testing.deployment(MODEL, 2, two, previous=one))
    delete(tmp_path, "state/models/*")
    assert asked(instance, "t") == [2]

    await instance.hear(testing.deployment(MODEL, 3, one))

    assert asked(instance, "t") == [1]


async def test_only_the_files_of_wanted_versions_are_kept(instance: Instance, tmp_path: Path) -> None:
    for number in (1, 2, 3):
        await instance.hear(testing.deployment(MODEL, number, version(tmp_path, number)))

    assert names(tmp_path, "state/models/*") == [version(tmp_path, 3).model.digest]


async def test_a_restart_needs_nobody(instance: Instance, tmp_path: Path) -> None:
    await instance.hear(testing.deployment(MODEL, 1, version(tmp_path, 1)))
    delete(tmp_path, "artifacts/*/*")

    await instance.restart()

    assert asked(instance, "t") == [1]


async def test_a_model_that_was_taken_out_of_service_is_served_no_longer_until_it_is_put_back(
    instance: Instance, tmp_path: Path
) -> None:
    await instance.hear(testing.deployment(MODEL, 1, version(tmp_path, 1)))
    assert asked(instance, "t") == [1]

    await instance.hear(testing.deployment(MODEL, 2, None))

    with pytest.raises(Conflict, match="none has been promoted"):
        asked(instance, "t")
    assert standing(instance).champion_version == 0
    assert names(tmp_path, "state/models/*") == []

    await instance.hear(testing.deployment(MODEL, 3, version(tmp_path, 2)))
    assert asked(instance, "t") == [2]


async def test_a_model_whose_spec_is_deleted_is_served_no_longer(instance: Instance, tmp_path: Path) -> None:
    await instance.hear(testing.deployment(MODEL, 1, version(tmp_path, 1)))

    await instance.hear(testing.with_value(testing.spec(PROJECT.model), None))

    with pytest.raises(NotFound, match="there is no model"):
        asked(instance, "t")


async def test_rubbish_on_a_topic_keeps_nothing_else_from_being_served(
    instance: Instance, tmp_path: Path
) -> None:
    good = testing.deployment(MODEL, 1, version(tmp_path, 1))

    await instance.hear(
        testing.with_value(good, b"{rubbish"), testing.with_value(testing.spec(PROJECT.model), b"[]")
    )
    await instance.hear(good)

    assert asked(instance, "t") == [1]


async def test_a_version_that_looks_into_a_table_answers_once_that_is_read_and_after_a_restart_too(
    instance: Instance, tmp_path: Path
) -> None:
    features = ("zones[zone].area", "double = zones[zone].area * 2")
    wanted = testing.version(tmp_path, 1, features, testing.linear_model([1, 0.5]))
    since = MIDNIGHT + 1

    await instance.hear(testing.deployment(MODEL, 1, wanted))
    with pytest.raises(Conflict, match="is being loaded"):
        asked(instance, "t")

    await instance.hear(*testing.table("zones", ("1", FROM_EVER, {"area": 5})))
    assert asked(instance, "t") == [10]

    await instance.hear(*testing.table("zones", ("1", since, {"area": 7})))
    assert asked(instance, "t") == [10]
    await instance.restart()
    late = [row.replace(b".000Z", b".001Z") for row in rows("u")]
    assert instance.predictions.predict(MODEL, [*rows("t"), *late]).predictions.tolist() == [10, 14]


async def test_a_column_that_a_table_gets_later_is_waited_for_and_unseats_nobody(
    instance: Instance, tmp_path: Path
) -> None:
    await instance.hear(*testing.table("zones", ("1", FROM_EVER, {"area": 5})))
    first = testing.version(tmp_path, 1, ["zones[zone].area"], testing.linear_model([1]))
    await instance.hear(testing.deployment(MODEL, 1, first))
    fields = {name: field.model_dump(mode="json") for name, field in PROJECT.zones.spec.fields.items()}
    document = specs.to_document(PROJECT.zones)
    document["spec"]["fields"] = fields | {"depth": {"type": "number"}}

    await instance.hear(testing.spec(specs.parse("Table", document), 2))
    second = testing.version(tmp_path, 2, ["zones[zone].depth"], testing.linear_model([1]))
    await instance.hear(testing.deployment(MODEL, 2, second, previous=first))
    assert asked(instance, "t") == [5]

    await instance.hear(*testing.table("zones", ("1", MIDNIGHT, {"area": 5, "depth": 3})))
    assert asked(instance, "t") == [3]
