"""Sources of a model's predictions: what they have to agree with, and that none is made of itself."""

from typing import Any

import pytest
from trimtab_registry.errors import BadSpecs, NeededResource
from trimtab_registry.testing import Harness, documents
from trimtab_registry.usecases.applying import Specs

Document = dict[str, Any]


@pytest.fixture
def registry() -> Harness:
    return Harness()


@pytest.fixture
def specs(registry: Harness) -> Specs:
    return registry.specs


def a_source(name: str = "guesses", of: str = "minutes", **changes: Any) -> Document:
    """Return a source of a model's predictions, of which a field says that there is none of it where it is None."""
    fields = {
        "trip": {"type": "string"},
        "at": {"type": "timestamp"},
        "zone": {"type": "integer"},
        "prediction": {"type": "number"},
        "prediction_version": {"type": "integer"},
    } | changes.pop("fields", {})
    spec = {"predictions_of": of, "key": "trip", "event_time": "at", "lateness": "2h"} | changes
    kept = {name: field for name, field in fields.items() if field is not None}
    return {"kind": "Source", "metadata": {"name": name}, "spec": spec | {"fields": kept}}


def a_model(name: str, source: str, **changes: Any) -> Document:
    [document] = [
        each for each in documents(source=source, features=["request.zone"]) if each["kind"] == "Model"
    ]
    spec = document["spec"] | {"score": ["request", "stream"]} | changes
    return document | {"metadata": {"name": name}, "spec": spec}


def scoring(**model: Any) -> list[Document]:
    return documents(**{"score": ["request", "stream"], **model})


async def faults(specs: Specs, *applied: Document) -> dict[str, str]:
    with pytest.raises(BadSpecs) as caught:
        await specs.apply(applied, "ann")
    return {f"{fault.resource} {fault.path}": fault.sentence for fault in caught.value.faults}


async def test_a_source_of_predictions_a_view_of_it_and_a_model_on_it_are_applied(specs: Specs) -> None:
    view = {
        "kind": "FeatureView", "metadata": {"name": "guessed"},
        "spec": {"source": "guesses", "entity": "zone", "hop": "1h", "ttl": "10d",
                 "aggregates": [{"field": "prediction", "functions": ["mean"], "windows": ["6h"]}]},
    }  # fmt: skip
    second = a_model("second", "guesses", features=["request.prediction", "guessed.*"])
    changes = await specs.apply([*scoring(), a_source(), view, second], "ann")

    assert {change.action for change in changes} == {"created"}


async def test_what_differs_from_the_models_own_source_is_told_all_of_it(specs: Specs) -> None:
    fields = {
        "zone": {"type": "number"},
        "distance": {"type": "number", "unit": "km", "sent_in": "mi"},
        "colour": {"type": "string"},
        "prediction": {"type": "string"},
    }
    found = await faults(specs, *scoring(), a_source(fields=fields, key="zone", partitions=3, lateness="1h"))

    assert found == {
        "Source/guesses spec.key": "'zone' is 'trip' in source 'pickups', whose events are scored: write trip",
        "Source/guesses spec.partitions": "3 is 2 in source 'pickups', whose events are scored: write 2",
        "Source/guesses spec.lateness": "'1h' is shorter than that of source 'pickups', whose events are scored: write 2h or more",
        "Source/guesses spec.fields.zone.type": "'number' is 'integer' in source 'pickups': write integer",
        "Source/guesses spec.fields.distance.unit": "'km' is None in source 'pickups': remove it",
        "Source/guesses spec.fields.distance.sent_in": "'mi' was converted when the event came in: remove it",
        "Source/guesses spec.fields.colour": "it is no field of source 'pickups', nor one of prediction, prediction_id, "
        "prediction_version: remove it, or mend its name",
        "Source/guesses spec.fields.prediction.type": "'string' is number in a prediction: write number",
    }  # fmt: skip


async def test_of_classes_the_prediction_is_a_class_with_its_probabilities_beside_it(specs: Specs) -> None:
    label = {
        "source": "dropoffs",
        "on": "trip",
        "value": "zone",
        "within": "4h",
        "classes": ["1", "2-3", "4"],
    }
    model = {"task": "multiclass", "label": label, "rollout": {}}
    fields = {"prediction": {"type": "string"}, "probability_2_3": {"type": "number"}}
    await specs.apply([*scoring(**model), a_source(fields=fields)], "ann")

    found = await faults(
        specs, a_source(fields={**fields, "probability_5": {"type": "number", "nullable": True}})
    )
    assert (
        "nor one of prediction, prediction_id, prediction_version, probability_1, probability_2_3, probability_4"
        in (found["Source/guesses spec.fields.probability_5"])
    )


@pytest.mark.parametrize(
    ("applied", "said"),
    [
        ([*scoring(), a_source(of="hours")], "'hours' is no model: apply it too, or name one of: minutes"),
        ([*documents(), a_source()], "'minutes' scores no events: add stream to its score"),
        (
            [*scoring(source="guesses", features=["request.zone"]), a_source()],
            r"'minutes' would be made of its own predictions \(guesses → minutes → guesses\): let it take no such source",
        ),
        (
            [*scoring(source="more", features=["request.zone"]), a_source(), a_source("more", "second"), a_model("second", "guesses")],
            r"'minutes' would be made of its own predictions \(guesses → minutes → more → second → guesses\)",
        ),
        (
            [*scoring(label={"source": "guesses", "on": "trip", "value": "prediction", "within": "4h"}), a_source()],
            r"made of its own predictions \(guesses → minutes → guesses\)",
        ),
    ],
)  # fmt: skip
async def test_a_chain_that_cannot_be_is_told(specs: Specs, applied: list[Document], said: str) -> None:
    with pytest.raises(BadSpecs, match=said):
        await specs.apply(applied, "ann")


async def test_a_change_that_breaks_a_chain_is_refused_wherever_in_it_it_is(specs: Specs) -> None:
    await specs.apply(
        [*scoring(), a_source(), a_model("second", "guesses"), a_source("more", "second")], "ann"
    )

    assert list(await faults(specs, *documents())) == ["Source/guesses spec.predictions_of"]
    speed = next(each for each in documents() if each["kind"] == "FeatureView")
    aggregates = [{"field": "prediction", "functions": ["mean"], "windows": ["1d"]}]
    found = await faults(
        specs, speed | {"spec": speed["spec"] | {"source": "more", "aggregates": aggregates}}
    )
    assert "(guesses → minutes → more → second → guesses)" in found["Source/guesses spec.predictions_of"]


async def test_a_model_is_not_deleted_while_a_source_is_made_of_its_predictions(registry: Harness) -> None:
    await registry.specs.apply([*scoring(), a_source()], "ann")

    with pytest.raises(NeededResource, match="Source/guesses"):
        await registry.deleting.delete("Model", "minutes", actor="ann", comment="")
