"""A request's row is cleaned and judged as an event's is, so that a model is asked what it was trained on."""

import json
from typing import Any

import msgspec
import numpy as np
import pytest
from trimtab_core import specs
from trimtab_core.contract import compile_contract
from trimtab_core.features import RequestEvaluator, resolve
from trimtab_serving import testing
from trimtab_serving.errors import BadRow
from trimtab_serving.rows import RowReader

AT = "2018-01-03T17:01:05Z"
NOW = 1_514_998_865_000
FIELDS = {
    "trip": {"type": "string"},
    "at": {"type": "timestamp", "trim": True},
    "seen": {"type": "timestamp", "trim": True, "nulls": ["1900-01-01"], "nullable": True},
    "distance": {"type": "number", "unit": "km", "sent_in": "mi", "nulls": [-200], "default": 1, "max": 100},
    "bags": {"type": "integer", "default": 0},
    "heat": {"type": "number", "unit": "degC", "sent_in": "degF", "nullable": True},
}
FEATURES = ("request.distance", "request.bags", "request.heat", "hour(seen)", "hour(at)")


def a_source() -> specs.Source:
    spec = {
        "key": "trip", "event_time": "at", "lateness": "2h", "fields": FIELDS, "rules": ["bags < distance"],
    }  # fmt: skip
    return specs.Source.model_validate({"metadata": {"name": "pickups"}, "spec": spec})


def a_reader() -> RowReader:
    reader = RowReader(testing.project().model, a_source(), {}, {})
    reader.prepare(FEATURES)
    return reader


@pytest.mark.parametrize(
    "change",
    [
        {},
        {"distance": -200},
        {"distance": 10, "bags": None, "heat": 98.6},
        {"seen": " 2018-01-03T05:00:00Z ", "at": f" {AT}"},
        {"seen": "1900-01-01", "heat": None},
    ],
)
def test_an_event_and_a_request_of_the_same_row_give_the_same_features(change: dict[str, Any]) -> None:
    payload = json.dumps({"trip": "a", "at": AT, "heat": 50, **change}).encode()
    checked = compile_contract(a_source().spec).check([payload], np.array([NOW]))
    event = msgspec.json.decode(msgspec.json.encode(checked.rows[0]))
    trained = RequestEvaluator(resolve(FEATURES, a_source().spec, {})).evaluate([event])

    reader = a_reader()
    asked = reader.read([payload], FEATURES)

    assert checked.reasons == [()]
    assert asked.event_time_ms == [NOW]
    np.testing.assert_array_equal(reader.inputs(asked, FEATURES)[0], trained.astype(np.float32))


def test_a_request_is_held_to_bounds_in_the_contracts_unit_and_to_its_rules() -> None:
    with pytest.raises(BadRow, match=r"distance 160\.\d+ is outside \[.*100\]"):
        a_reader().read([json.dumps({"trip": "a", "at": AT, "distance": 100}).encode()], FEATURES)
    with pytest.raises(BadRow, match="bags 5 breaks the rule bags < distance, where distance is"):
        a_reader().read([json.dumps({"trip": "a", "at": AT, "bags": 5}).encode()], FEATURES)
