"""Bad data: at the stated rate where nothing changes, with its name and origin where something does, and never drift."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
from trimtab_core.limits import parse_limit
from trimtab_core.quality import (
    Fault,
    Stated,
    blocking,
    clumping,
    learn,
    least_unusual,
    look,
    sources_of,
    stated_of,
    step,
)
from trimtab_core.specs import FeatureView, Model, Source

WINDOW = 200
SENT = Stated("field 'x' of source 'asks' (owner ops@example.org)", sent=True, low=-100, high=100)


def a_reference(rows: int = 4_000) -> dict[str, Any]:
    rng = np.random.default_rng(5)
    columns: dict[str, Any] = {"request.x": rng.normal(size=rows)}
    columns["request.kind"] = rng.choice(["a", "b", "c"], rows, p=[0.6, 0.39, 0.01]).astype(object)
    return columns


USUAL = learn(
    a_reference(), {"request.x": "numeric", "request.kind": "categorical"}, window=WINDOW, false_alarms=0.001
)


def found(changes: Mapping[str, Any], stated: Stated = SENT) -> dict[str, Any]:
    """Return the shares that are over in a window of usual rows with some of one column changed."""
    rng = np.random.default_rng(9)
    window = {"request.x": rng.normal(0, 0.5, WINDOW), "request.kind": np.array(["a", "b"] * 100, object)}
    for name, values in changes.items():
        window[name][: len(values)] = values
    shares = look(
        window,
        USUAL,
        {"request.x": stated, "request.kind": Stated("", sent=True, kinds=("a", "b", "c", "d"))},
    )
    return {f"{share.feature}/{share.statistic}": share for share in shares if share.over}


def test_a_share_that_is_usual_is_no_fault() -> None:
    assert found({}) == {}


@pytest.mark.parametrize(
    ("changes", "place"),
    [
        ({"request.x": [np.nan] * 12}, "request.x/null_share"),
        ({"request.kind": [""] * 12}, "request.kind/null_share"),
        ({"request.x": [999.0] * 12}, "request.x/impossible_share"),
        ({"request.x": [50.0] * 12}, "request.x/outside_share"),
        ({"request.kind": ["d"] * 12}, "request.kind/unseen_share"),
        ({"request.kind": ["e"] * 12}, "request.kind/impossible_share"),
    ],
)
def test_each_way_to_be_unusual_has_a_name_of_its_own(changes: Mapping[str, Any], place: str) -> None:
    assert list(found(changes)) == [place]


def test_a_single_row_is_no_fault() -> None:
    assert found({"request.x": [np.nan]}) == found({"request.x": [999.0]}) == {}


def test_what_the_owner_expects_goes_before_what_is_usual() -> None:
    often = Stated("", sent=True, null_share=parse_limit("< 0.5"))
    never = Stated("", sent=True, null_share=parse_limit("< 0.001"))

    assert found({"request.x": [np.nan] * 80}, often) == {}
    (share,) = found({"request.x": [np.nan]}, never).values()
    assert (share.limit, share.stated) == (0.001, True)


def test_only_what_a_producer_sends_wrongly_stands_in_the_way() -> None:
    def faults(changes: Mapping[str, Any], stated: Stated) -> dict[str, Fault]:
        over = list(found(changes).values())
        return step(
            {}, over, {"request.x": stated}, version=3, from_ms=0, to_ms=60_000, rows=WINDOW, patience=2
        )

    missing = faults({"request.x": [np.nan] * 70}, SENT)
    assert blocking(missing) == (
        "request.x is missing in 35.0% of 200 predictions of 1970-01-01T00:00 to 1970-01-01T00:01 (0.00% is usual for "
        "version 3, 2.00% is not): it is field 'x' of source 'asks' (owner ops@example.org)."
    )
    assert blocking(faults({"request.x": [50.0] * 70}, SENT)) == "", "it is possible: drift says what it is"
    assert blocking(faults({"request.x": [np.nan] * 70}, Stated("the view 'v'"))) == "", (
        "nothing has happened there"
    )


def test_a_fault_ends_after_good_windows_in_a_row_or_with_its_version() -> None:
    bad, good = list(found({"request.x": [np.nan] * 70}).values()), list[Any]()
    held: dict[str, Fault] = {}
    stood = []
    for at, shares in enumerate([good, bad, good, bad, good, good, bad]):
        held = step(held, shares, {}, version=1, from_ms=at, to_ms=at, rows=WINDOW, patience=2)
        stood.append([fault.since_ms for fault in held.values()])

    assert stood == [[], [1], [1], [1], [1], [], [6]]
    assert step(held, good, {}, version=2, from_ms=9, to_ms=9, rows=WINDOW, patience=2) == {}


def test_the_limit_of_rows_that_are_exchangeable_is_exact() -> None:
    """All of k flagged rows of N + n lie among the n newest with the chance C(n, k) / C(N + n, k)."""
    rows, window, k = 900, 100, 3
    chance = float(np.prod([(window - at) / (rows + window - at) for at in range(k)]))

    assert least_unusual(0, rows, window, chance * 1.0001) == pytest.approx(k / window)
    assert least_unusual(0, rows, window, chance * 0.9999) == pytest.approx((k + 1) / window)
    assert least_unusual(rows, rows, window, 0.01) > 1, "what was always missing may be"


@pytest.mark.parametrize(("share", "run"), [(0.0005, 1), (0.05, 1), (0.05, 20), (0.4, 5)])
def test_false_faults_are_no_more_than_stated_in_streams_that_do_not_change(share: float, run: int) -> None:
    rng, rate, alarms, windows = np.random.default_rng(1), 0.02, 0, 0
    for _ in range(150):
        flags = np.repeat(rng.random(30 * WINDOW // run) < share, run)
        reference, live = np.split(flags, [20 * WINDOW])
        limit = least_unusual(reference.sum(), reference.size, WINDOW, rate, clumping(reference, WINDOW))
        shares = live.reshape(-1, WINDOW).mean(axis=1)
        alarms, windows = alarms + int((shares >= limit).sum()), windows + shares.size

    assert alarms <= 1.5 * rate * windows


def test_a_feature_is_traced_to_who_sends_it() -> None:
    fields = {
        "id": {"type": "string"},
        "at": {"type": "timestamp"},
        "x": {"type": "number", "min": 0, "expect": {"null_share": "< 0.1"}},
    }
    spec = {"key": "id", "event_time": "at", "lateness": "1h", "fields": fields}
    sources = {
        name: Source.model_validate({"metadata": {"name": name, "owner": owner}, "spec": spec})
        for name, owner in [("asks", "ops@example.org"), ("events", None)]
    }
    aggregates = [{"field": "x", "functions": ["mean"], "windows": ["7d"]}]
    view = FeatureView.model_validate(
        {
            "metadata": {"name": "speed"},
            "spec": {"source": "events", "entity": "id", "aggregates": aggregates, "hop": "1h", "ttl": "30d"},
        }
    )
    model = Model.model_validate(
        {
            "metadata": {"name": "m"},
            "spec": {
                "task": "regression", "source": "asks", "features": ["request.x", "speed.*"], "trainer": {"window": "30d"},
                "label": {"source": "truths", "on": "id", "value": "y", "within": "1h"}, "rollout": {"cap": 1},
            },
        }
    )  # fmt: skip

    stated = stated_of(model, ["request.x", "speed.x_mean_7d"], sources, {"speed": view})

    assert (stated["request.x"].sent, stated["request.x"].low) == (True, 0)
    assert str(stated["request.x"].null_share) == "< 0.1"
    assert stated["request.x"].origin == "field 'x' of source 'asks' (owner ops@example.org)"
    assert stated["speed.x_mean_7d"] == Stated(
        "the view 'speed', made of source 'events' (which names no owner)"
    )
    assert sources_of(model, {"speed": view}) == ["asks", "truths", "events"]
