"""Expressions are computed as a person would, the same for one row and for many, and run nothing."""

import math
import pickle
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from trimtab_core.expressions import Expression
from trimtab_core.features import (
    FeatureFault,
    RequestEvaluator,
    inputs,
    required_fields,
    resolve,
    tables_named,
    views_named,
)
from trimtab_core.specs import FeatureView, FeatureViewSpec, Source, SourceSpec, parse

nan = math.nan


def a_source() -> SourceSpec:
    fields = {
        "id": {"type": "string"},
        "at": {"type": "timestamp", "timezone": "America/New_York"},
        "zone": {"type": "integer"},
        "distance": {"type": "number", "nullable": True},
    }
    spec = {"key": "id", "event_time": "at", "lateness": "1h", "fields": fields}
    source = parse("Source", {"metadata": {"name": "s"}, "spec": spec})
    assert isinstance(source, Source)
    return source.spec


def a_view() -> FeatureViewSpec:
    spec = {
        "source": "s", "entity": "zone", "hop": "1h", "ttl": "7d",
        "aggregates": [{"field": "mph", "functions": ["count", "mean"], "windows": ["1d"]}],
    }  # fmt: skip
    view = parse("FeatureView", {"metadata": {"name": "v"}, "spec": spec})
    assert isinstance(view, FeatureView)
    return view.spec


VIEWS = {"speed": a_view(), "zone-speed": a_view()}


def value(text: str, **columns: float) -> float:
    """Return the value of an expression whose inputs are request.a, request.b and so on."""
    expression = Expression(text, [])
    read = [np.array([columns[each.name.removeprefix("request.")]]) for each in expression.inputs]
    return float(expression.evaluate(read)[0])


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("request.a / request.b * 60", 210),
        ("-request.a + 2 ** 3 - +1", 0),
        ("request.a // request.b + request.a % request.b", 4),
        ("request.a / request.z", nan),
        ("request.a // request.z", nan),
        ("request.a % request.z", nan),
        ("request.z ** -1", nan),
        ("1 / (1 / request.z)", nan),
        ("log(-request.a)", nan),
        ("sqrt(-request.a)", nan),
        ("exp(request.a * 1000)", nan),
        ("log(exp(request.a)) - sqrt(request.a * request.a) + abs(-2)", 2),
        ("floor(request.a / 2) + ceil(request.a / 2)", 7),
        ("min(request.a, 3, request.b) + max(request.a, 3)", 9),
        ("min(request.a, request.n)", nan),
        ("request.a > 3", 1),
        ("1 < request.b < 2", 0),
        ("request.n == request.n", nan),
        ("request.n + 1", nan),
        ("where(request.a >= 7, 10, 20)", 10),
        ("where(request.n > 1, 10, 20)", nan),
        ("where(request.a == 7 and not request.b == 7, request.n, 1)", nan),
        ("request.z and request.n", 0),
        ("request.a or request.n", 1),
        ("request.a and request.n", nan),
        ("coalesce(request.n, request.n, request.b)", 2),
        ("is_null(request.n) + is_null(request.a)", 1),
        ("request.a\n * 2", 14),
    ],
)
def test_an_expression_is_what_a_person_would_compute_and_nan_where_something_is_missing(
    text: str, wanted: float
) -> None:
    assert value(text, a=7.0, b=2.0, z=0.0, n=nan) == pytest.approx(wanted, nan_ok=True)


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("x = ", "feature 'x': '' ends too soon: write an expression such as"),
        ("x = request.distance *", "feature 'x': 'request.distance *' ends too soon"),
        ("x = distance * 2", "'distance' at character 1 of 'distance * 2' is no feature: write request.distance"),
        ("x = 2 * request.distanc", "did you mean 'distance'? (at character 5 of '2 * request.distanc')"),
        ("x = request.id + 1", "is a text, and an expression takes numbers: name one"),
        ("x = sped.mph_mean_1d", "did you mean 'speed'?"),
        ("x = zone-sped.mph_mean_1d + 1", "'zone' at character 1"),
        ("x = 1 + zone-speed.mph_maen_1d", "did you mean 'mph_mean_1d'? (at character 5 of '1 + zone-speed.mph_maen_1d')"),
        ("x = zone-speed.mph_mean_1d + foo(zone-speed.mph_mean_1d)", "'foo(zone-speed.mph_mean_1d)' at character 26"),
        ("x = hour(zone)", "needs a field of type timestamp"),
        ("x = hour(request.at)", "takes the name of one field: write hour(field)"),
        ("x = 3", "reads no feature"),
        ("x = 'a' + request.distance", "is no number"),
        ("x = 1e999 + request.distance", "is no part of an expression"),
        ("x = request.distance if 1 else 2", "is no part of an expression"),
        ("x = request.distance.real", "is no part of an expression"),
        ("x = request.distance in [1]", "is no part of an expression"),
        ("x = request.distance @ 2", "is no part of an expression"),
        ("x = [y for y in request.distance]", "is no part of an expression"),
        ("x = __import__('os').system('true')", "is no part of an expression"),
        ("x = eval('1')", "names a function that there is not: write one of abs, ceil"),
        ("x = abs(request.distance, 2)", "takes 1 value, and not 2"),
        ("x = where(request.distance)", "takes 3 values, and not 1"),
        ("x = min(request.distance)", "takes two values or more"),
        ("x = max(*request.distance, 1)", "is no part of an expression"),
        ("x = abs(x=request.distance)", "is no part of an expression"),
        ("x = " + "-" * 99 + "request.distance", "is nested more than 100 deep"),
        ("x = " + "-" * 990 + "request.distance", "has 1006 characters"),
        ("x = " + "(" * 400 + "1" + ")" * 400, "cannot be read"),
    ],
)  # fmt: skip
def test_a_text_that_is_no_expression_is_told_with_its_place_and_the_remedy(text: str, sentence: str) -> None:
    with pytest.raises(FeatureFault) as raised:
        resolve([text], a_source(), VIEWS)

    assert sentence in str(raised.value)


def test_what_an_expression_reads_is_looked_up_and_is_no_feature_by_itself() -> None:
    texts = [
        "request.zone",
        "ratio=request.distance / zone-speed.mph_mean_1d",
        "hour(at)",
        "late = hour(at) > 20",
    ]
    found = resolve(texts, a_source(), VIEWS)

    names = [each.name for each in found]
    assert names[1] == "ratio = request.distance / zone-speed.mph_mean_1d"
    assert [each.name for each in resolve(names, a_source(), VIEWS)] == names
    assert [each.name for each in inputs(found)] == [
        "request.zone", "hour(at)", "request.distance", "zone-speed.mph_mean_1d",
    ]  # fmt: skip
    assert required_fields(found, VIEWS) == {"zone", "at", "distance"}

    evaluator = RequestEvaluator(found)
    matrix = evaluator.evaluate([{"zone": 3, "distance": 8, "at": "2018-01-03 21:30:00"}, {"zone": 4}])
    matrix[:, 3] = [16, 16]
    np.testing.assert_array_equal(evaluator.finish(matrix), [[3, 0.5, 21, 1], [4, nan, nan, nan]])


def test_a_version_without_expressions_is_given_what_was_read() -> None:
    evaluator = RequestEvaluator(resolve(["request.distance", "speed.*"], a_source(), VIEWS))
    matrix = evaluator.evaluate([{"distance": 1.0}])

    assert evaluator.finish(matrix) is matrix


def test_two_expressions_of_one_name_are_refused() -> None:
    with pytest.raises(FeatureFault, match="'x' is named twice"):
        resolve(["x = request.zone + 1", "x = request.zone + 2"], a_source(), {})


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("speed.*", {"speed"}),
        ("x = 2*speed.a/zone-speed.b", {"speed", "zone-speed"}),
        ("x = speed.a-zone.b", {"speed", "zone"}),
        ("x = 2*file-road.a", {"file-road"}),
        ("x = 1e5-zone.b", {"zone"}),
        ("x = zones[at].a-zone.b", {"zone"}),
        ("hour(at)", set()),
    ],
)
def test_the_views_that_a_text_names_are_told_a_dash_in_a_name_from_a_minus(
    text: str, named: set[str]
) -> None:
    assert views_named(text) == named


def test_the_tables_that_a_text_names_are_told_a_dash_in_a_name_from_a_minus() -> None:
    assert tables_named("x = speed.a-zones[at].b + bus-stops[stop].c") == {"zones", "bus-stops"}


def test_an_expression_that_has_travelled_to_another_process_says_the_same() -> None:
    there = pickle.loads(pickle.dumps(Expression("request.a / zone-speed.mph * 60", ["zone-speed", "city"])))

    assert there.text == "request.a / zone-speed.mph * 60"
    assert there.evaluate([np.array([2.0]), np.array([30.0])]).tolist() == [4]


leaves = st.sampled_from(["request.a", "request.b", "0", "2.5", "-3"])
texts = st.recursive(
    leaves,
    lambda inner: st.one_of(
        st.tuples(inner, st.sampled_from(["+", "-", "*", "/", "//", "%", "<", "==", "and"]), inner).map(
            lambda each: f"({' '.join(each)})"
        ),
        st.tuples(st.sampled_from(["abs", "log", "exp", "sqrt", "floor", "is_null"]), inner).map(
            lambda each: f"{each[0]}({each[1]})"
        ),
        st.tuples(inner, inner, inner).map(lambda each: f"where({', '.join(each)})"),
    ),
    max_leaves=8,
).map(lambda text: f"request.a + 0 * request.b + {text}")


@settings(max_examples=150)
@given(
    texts, st.lists(st.tuples(*[st.one_of(st.just(nan), st.floats(-1e6, 1e6))] * 2), min_size=1, max_size=20)
)
def test_one_row_is_computed_as_among_many_and_is_never_infinite(text: str, rows: list[Any]) -> None:
    expression = Expression(text, [])
    columns = np.array(rows).T.copy()

    many = expression.evaluate(list(columns))

    assert many.shape == (len(rows),)
    assert not np.isinf(many).any()
    one_by_one = [expression.evaluate(list(columns[:, [at]]))[0] for at in range(len(rows))]
    np.testing.assert_allclose(many, one_by_one, rtol=1e-12)
