"""What a person is shown of versions on trial: how each stands, and with what certainty."""

import pytest
from google.protobuf.timestamp_pb2 import Timestamp
from trimtab import roles
from trimtab.cli import arms
from trimtab_contracts.monitoring.v1.monitoring_pb2 import Trial
from trimtab_contracts.registry.v1.registry_pb2 import Arm, Deployment, Rollout, VersionRef
from trimtab_runtime.errors import Rejected

FOUND = Trial(
    model="minutes", rollout_id="minutes/3/8", metric="mae", alpha=0.05, needed=60, champion=2,
    until=Timestamp(seconds=1_700_000_000),
    arms=[
        Trial.Arm(version=3, share=30, rows=120, mean_difference=0.4, low=0.1, high=0.7, e_better=41, e_worse=0.2),
        Trial.Arm(version=5, share=20, rows=0),
        Trial.Arm(version=7, left=True, rows=80, mean_difference=-1.5, low=-2.0, high=-1.0, e_worse=61),
    ],
)  # fmt: skip


def test_each_version_on_trial_has_a_line_beside_the_champion() -> None:
    lines = arms.rows(FOUND)

    assert [(line["version"], line["share"], line["stands"]) for line in lines] == [
        (2, "50 %", "champion"),
        (3, "30 %", "better"),
        (5, "20 %", "no labelled row yet"),
        (7, "0 %", "has left"),
    ]
    assert [line["mae less"] for line in lines] == [None, 0.4, None, -1.5]
    assert {tuple(line) for line in lines} == {tuple(lines[0])}, "all lines have the same columns"
    assert arms.rows(Trial(model="minutes", champion=2)) == []


@pytest.mark.parametrize(
    ("low", "high", "stands"),
    [(-0.1, 0.2, "cannot be told yet"), (-0.3, -0.1, "worse"), (0.1, 0.2, "better")],
)
def test_what_is_certain_follows_from_the_interval(low: float, high: float, stands: str) -> None:
    found = Trial(metric="mae", arms=[Trial.Arm(version=3, rows=9, low=low, high=high)])

    assert arms.rows(found)[1]["stands"] == stands


def test_each_guardrail_of_a_version_has_a_line() -> None:
    found = Trial(guardrail_needed=200, arms=[
        Trial.Arm(version=3, guardrails=[
            Trial.Guardrail(name="failures", requests=90, challenger_alone=4, champion_alone=1, allowed=0.01, evidence=7.5),
            Trial.Guardrail(name="latency", requests=85, challenger_alone=2, allowed=0.05, limit_ms=12.34, evidence=0.4),
        ]),
        Trial.Arm(version=5),
    ])  # fmt: skip

    failures, latency = arms.guardrails(found)

    assert list(failures.values()) == [3, "failures", 90, 4, 1, "1.0% more", 7.5]
    assert latency["guardrail"] == "slower than 12.3 ms"
    assert arms.guardrails(FOUND) == []


def test_the_promise_is_said_in_words() -> None:
    said = arms.said(FOUND)

    assert said.startswith(
        "A version is promoted at 60 for better, and leaves at 60 for worse; at 2023-11-14T22:13:20"
    )
    assert "with a chance of 5% at most" in said
    assert "with 95%, however often one looks" in said


def test_shares_are_whole_percents() -> None:
    assert arms.percents("30,20") == [30, 20]
    assert arms.percents("") == []
    with pytest.raises(Rejected, match="--shares '30;20' are no whole percents"):
        arms.percents("30;20")


def test_versions_that_serve_are_named_as_answers_name_their_arms() -> None:
    one, two, three, four = (VersionRef(number=number) for number in (1, 2, 3, 4))
    canary = Deployment(champion=two, challenger=three, previous=one)
    assert list(roles.serving(canary).items()) == [
        ("champion", two),
        ("challenger", three),
        ("previous", one),
    ]

    test = Deployment(champion=two, challenger=three, others=[four], rollout=Rollout(arms=[Arm(number=3)]))
    assert list(roles.serving(test)) == ["champion", "challenger-3", "challenger-4"]
    assert roles.serving(Deployment()) == {}
