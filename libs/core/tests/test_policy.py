"""One episode gives one command, within a cooldown and a budget, and never from faulty data."""

from dataclasses import replace
from itertools import pairwise
from typing import get_args

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from trimtab_core import specs
from trimtab_core.episodes import DriftKind
from trimtab_core.policy import (
    DriftSignal,
    Futile,
    PolicySpec,
    PolicyState,
    command_id,
    decide,
    outcome,
    reconsider,
)

DAY = 86_400.0
SPEC = PolicySpec(on=("data", "performance"), cooldown_s=7 * DAY, at_most=(3, 60 * DAY))


def a_signal(episode: str = "e1", day: float = 0.0, kind: DriftKind = "data") -> DriftSignal:
    return DriftSignal("m", episode, kind, day * DAY, 0.4)


def after_a_retrain(day: float = 0.0, *, helped: bool = True, episode: str = "e1") -> PolicyState:
    state = decide(SPEC, PolicyState(), a_signal(episode, day)).state
    return outcome(state, helped, (day + 0.5) * DAY)


def test_the_kinds_are_those_that_a_spec_may_name() -> None:
    assert get_args(DriftKind) == get_args(specs.DriftKind)


def test_drift_is_answered_with_a_command() -> None:
    decision = decide(SPEC, PolicyState(), a_signal())

    assert (decision.action, decision.attempt, decision.command_id) == ("retrain", 1, command_id("e1", 1))
    assert decision.state.in_flight == decision.command_id
    assert decision.reason.endswith(".")


def test_a_kind_that_the_owner_did_not_list_is_declined() -> None:
    assert decide(SPEC, PolicyState(), a_signal(kind="prediction")).cause == "kind"


def test_faulty_data_blocks_a_retrain() -> None:
    decision = decide(SPEC, PolicyState(), replace(a_signal(), quality_fault="request.x is missing."))

    assert (decision.action, decision.cause, decision.state) == ("decline", "quality", PolicyState())


@pytest.mark.parametrize("helped", [None, True, False])
def test_a_redelivered_episode_names_the_command_it_already_has(helped: bool | None) -> None:
    state = decide(SPEC, PolicyState(), a_signal()).state
    if helped is not None:
        state = outcome(state, helped, DAY)

    again = decide(SPEC, state, a_signal(day=40))

    assert (again.action, again.cause, again.command_id) == ("decline", "duplicate", command_id("e1", 1))
    assert again.state == state


def test_one_retrain_is_in_flight_at_a_time() -> None:
    state = decide(SPEC, PolicyState(), a_signal()).state

    assert decide(SPEC, state, a_signal("e2", 30)).cause == "in_flight"


def test_the_cooldown_runs_in_event_time_and_says_when_it_ends() -> None:
    state = after_a_retrain()
    early = decide(SPEC, state, a_signal("e2", 6.9))

    assert (early.cause, early.retry_at) == ("cooldown", 7 * DAY)
    assert decide(SPEC, state, a_signal("e2", -3)).cause == "cooldown"
    assert decide(SPEC, state, a_signal("e2", 7)).action == "retrain"


def test_the_budget_frees_itself_as_commands_age() -> None:
    state = PolicyState()
    for number, day in enumerate((0, 10, 20)):
        state = outcome(decide(SPEC, state, a_signal(f"e{number}", day)).state, True, (day + 1) * DAY)
    spent = decide(SPEC, state, a_signal("late", 30))

    assert (spent.cause, spent.retry_at) == ("budget", 60 * DAY)
    assert decide(SPEC, state, a_signal("late", 60)).action == "retrain"


def test_each_retrain_that_did_not_help_doubles_the_wait() -> None:
    failed = after_a_retrain(helped=False)

    assert decide(SPEC, failed, a_signal("e2", 13.9)).cause == "cooldown"
    second = decide(SPEC, failed, a_signal("e2", 14))
    assert second.action == "retrain"
    helped = outcome(second.state, True, 15 * DAY)
    assert decide(SPEC, helped, a_signal("e3", 21)).action == "retrain"


def test_the_wait_is_never_more_than_eight_cooldowns() -> None:
    failed = replace(after_a_retrain(helped=False), futile={"data": Futile(20, 0.4)})

    assert decide(SPEC, failed, a_signal("e2", 55.9)).retry_at == 56 * DAY
    assert decide(SPEC, failed, a_signal("e2", 56)).action == "retrain"


def test_each_kind_of_drift_backs_off_by_what_was_tried_for_it() -> None:
    state = PolicyState()
    for number, (day, kind) in enumerate([(0, "data"), (14, "data"), (42, "data"), (98, "performance")]):
        decision = decide(SPEC, state, a_signal(f"e{number}", day, kind))  # type: ignore[arg-type]
        assert decision.action == "retrain"
        state = outcome(decision.state, False, (day + 1) * DAY)

    assert state.futile == {"data": Futile(3, 0.4), "performance": Futile(1, 0.4)}
    held = decide(SPEC, state, a_signal("e4", 111.9, "performance"))
    assert (held.retry_at, "after 1 without help" in held.reason) == (112 * DAY, True)


def test_what_did_not_help_against_one_scale_holds_up_nothing_of_another() -> None:
    state = PolicyState()
    for number, day in enumerate((0, 14)):
        above = replace(a_signal(f"e{number}", day), severity=6.0, scale="accepted")
        state = outcome(decide(SPEC, state, above).state, False, (day + 1) * DAY)

    assert state.futile == {"data accepted": Futile(2, 6.0)}
    assert decide(SPEC, state, a_signal("e3", 21)).action == "retrain"
    assert (
        decide(SPEC, state, replace(a_signal("e4", 41.9), severity=6.0, scale="accepted")).cause == "cooldown"
    )


def test_of_drift_without_a_severity_none_is_worse() -> None:
    signals = [replace(a_signal(f"e{number}", 10.0 * number), severity=0.0) for number in range(2)]
    state = outcome(decide(SPEC, PolicyState(), signals[0]).state, False, DAY)

    assert decide(SPEC, state, signals[1]).cause == "cooldown"


@pytest.mark.parametrize(
    ("other", "waits"),
    [
        (a_signal("e2", 8), True),
        (replace(a_signal("e2", 8), severity=0.79), True),
        (replace(a_signal("e2", 8), severity=0.8), False),
        (a_signal("e2", 8, "performance"), False),
        (DriftSignal("m", "due", "schedule", 8 * DAY), True),
    ],
    ids=["its like", "a little more of it", "twice as much", "another kind", "what is due without drift"],
)
def test_what_did_not_help_against_drift_says_nothing_of_worse_drift_or_of_another_kind(
    other: DriftSignal, waits: bool
) -> None:
    decision = decide(SPEC, after_a_retrain(helped=False), other)

    assert decision.cause == ("cooldown" if waits else "called")
    assert decide(SPEC, after_a_retrain(helped=False), replace(other, at=6.9 * DAY)).cause == "cooldown"


def test_an_episode_declined_for_the_time_being_gets_its_first_attempt_later() -> None:
    state = after_a_retrain()
    declined = decide(SPEC, state, a_signal("e2", 3))
    later = reconsider(SPEC, declined.state, a_signal("e2", 8))

    assert declined.state == state
    assert (later.action, later.attempt) == ("retrain", 1)


def test_a_second_attempt_needs_a_first_that_ended_without_help() -> None:
    running = decide(SPEC, PolicyState(), a_signal()).state
    again = reconsider(SPEC, after_a_retrain(helped=False), a_signal(day=14))

    assert reconsider(SPEC, running, a_signal(day=14)).cause == "duplicate"
    assert reconsider(SPEC, after_a_retrain(helped=True), a_signal(day=14)).cause == "duplicate"
    assert (again.action, again.attempt, again.command_id) == ("retrain", 2, command_id("e1", 2))
    assert decide(SPEC, again.state, a_signal()).command_id == command_id("e1", 2)


def test_a_cancelled_retrain_is_spent_but_is_no_failure_and_its_episode_may_try_again() -> None:
    state = outcome(decide(SPEC, PolicyState(), a_signal()).state, None, DAY)

    assert (state.in_flight, state.failures, state.commands) == (None, 0, (0.0,))
    assert reconsider(SPEC, state, a_signal(day=6.9)).cause == "cooldown"
    again = reconsider(SPEC, state, a_signal(day=7))
    assert (again.action, again.attempt) == ("retrain", 2)


def test_an_outcome_counts_once_and_only_for_the_loop_in_flight() -> None:
    state = decide(SPEC, PolicyState(), a_signal()).state
    ended = outcome(state, False, DAY, command_id("e1", 1))

    assert outcome(state, False, DAY, "another") == state
    assert outcome(ended, False, DAY, command_id("e1", 1)) == ended
    assert ended.failures == 1


def test_what_was_due_and_came_to_nothing_is_no_reason_to_wait_when_the_world_changes() -> None:
    due = DriftSignal("m", "due1", "schedule", 0.0)
    state = outcome(decide(SPEC, PolicyState(), due).state, False, DAY)

    assert state.failures == 0
    assert decide(SPEC, state, a_signal(day=7)).action == "retrain"
    assert outcome(decide(SPEC, state, a_signal(day=7)).state, False, 8 * DAY).failures == 1


@given(
    st.lists(
        st.tuples(st.integers(0, 5), st.integers(0, 200), st.sampled_from(["drift", "helped", "failed"]))
    )
)
def test_however_events_come_an_episode_has_one_command(story: list[tuple[int, int, str]]) -> None:
    state, commands = PolicyState(), []
    for episode, day, event in story:
        state = msgspec.json.decode(msgspec.json.encode(state), type=PolicyState)
        if event == "drift":
            decision = decide(SPEC, state, a_signal(f"e{episode}", day))
            state = decision.state
            if decision.action == "retrain":
                commands.append((f"e{episode}", day))
        else:
            state = outcome(state, event == "helped", day * DAY)

    days = [day for _, day in commands]
    assert len({episode for episode, _ in commands}) == len(commands)
    assert all(later - earlier >= 7 for earlier, later in pairwise(days))
    assert all(sum(day - 60 < other <= day for other in days) <= 3 for day in days)


def test_severe_drift_does_not_wait_for_the_cooldown_and_small_drift_does() -> None:
    spec, state = replace(SPEC, severe=3.0), after_a_retrain()

    small = decide(spec, state, replace(a_signal("e2", 3), severity=2.9))
    severe = decide(spec, state, replace(a_signal("e2", 3), severity=3.0))

    assert small.cause == "cooldown"
    assert severe.action == "retrain"
    assert "severity 3.00 is severe, does not wait for the cooldown" in severe.reason
    later = decide(spec, state, replace(a_signal("e2", 8), severity=3.0))
    assert (later.action, "severe," in later.reason) == ("retrain", False)


def test_small_drift_that_has_become_severe_waits_no_longer() -> None:
    spec, state = replace(SPEC, severe=3.0), after_a_retrain()

    assert reconsider(spec, state, replace(a_signal("e2", 3), severity=1.5)).cause == "cooldown"
    assert reconsider(spec, state, replace(a_signal("e2", 4), severity=3.5)).action == "retrain"


@pytest.mark.parametrize(
    ("state", "day", "cause"),
    [
        (after_a_retrain(helped=False), 3, "cooldown"),
        (after_a_retrain(), -1, "cooldown"),
        (decide(SPEC, PolicyState(), a_signal()).state, 3, "in_flight"),
        (replace(after_a_retrain(), commands=(0.0, 0.0, 0.0)), 3, "budget"),
    ],
    ids=["a back-off", "an event from before the command", "a retrain in flight", "the budget"],
)
def test_severe_drift_does_wait_for(state: PolicyState, day: float, cause: str) -> None:
    spec = replace(SPEC, severe=0.5)

    assert decide(spec, state, replace(a_signal("e2", day), severity=0.7)).cause == cause


def test_a_dry_run_says_what_it_would_have_ordered_and_simulates_cooldown_and_budget() -> None:
    spec, state, said = replace(SPEC, dry_run=True), PolicyState(), []
    for number, day in enumerate((0, 3, 10, 20, 30)):
        decision = decide(spec, state, a_signal(f"e{number}", day))
        state = decision.state
        said.append((decision.action, decision.cause))

    assert said == [
        ("rehearse", "called"),
        ("decline", "cooldown"),
        ("rehearse", "called"),
        ("rehearse", "called"),
        ("decline", "budget"),
    ]
    first = decide(spec, PolicyState(), a_signal())
    assert first.reason == (
        "Dry run, or a retrain would have been ordered: Data drift of severity 0.40 calls for a retrain of m."
    )
    again = reconsider(spec, first.state, a_signal(day=40))
    assert (again.cause, again.reason) == ("duplicate", "This episode already had its dry run.")


def test_what_was_rehearsed_holds_up_no_command() -> None:
    dry = decide(replace(SPEC, dry_run=True), PolicyState(), a_signal()).state
    dry = msgspec.json.decode(msgspec.json.encode(dry), type=PolicyState)

    decision = reconsider(SPEC, dry, a_signal(day=1))

    assert (decision.action, decision.attempt, decision.cause) == ("retrain", 1, "called")
    assert decision.state == decide(SPEC, PolicyState(), a_signal(day=1)).state


def test_a_dry_run_begins_with_what_was_ordered_before_it() -> None:
    spec, state = replace(SPEC, dry_run=True), after_a_retrain(helped=False)

    assert decide(spec, state, a_signal("e2", 6)).cause == "cooldown"
    again = reconsider(spec, state, a_signal(day=14))
    assert (again.action, again.attempt, again.command_id) == ("rehearse", 2, command_id("e1", 2))
    assert reconsider(spec, again.state, a_signal(day=30)).cause == "duplicate"
    running = decide(SPEC, PolicyState(), a_signal()).state
    assert decide(spec, running, a_signal("e2", 30)).cause == "in_flight"


def test_a_kind_that_nothing_watches_is_refused_with_those_that_something_does() -> None:
    with pytest.raises(ValueError, match="'data', 'prediction', 'performance' or 'concept'"):
        specs.RetrainSpec.model_validate({"on": ["skew"]})


def test_a_retrain_that_turns_out_not_to_have_helped_stands_as_if_it_never_had() -> None:
    first = after_a_retrain(helped=False)
    second = decide(SPEC, first, a_signal("e2", 14)).state
    command = command_id("e2", 1)
    refused, helped = (outcome(second, it, 15 * DAY, command) for it in (False, True))

    undone = outcome(helped, False, 20 * DAY, command)

    assert helped.failures == 0
    assert (undone.futile, undone.answers) == (refused.futile, refused.answers)
    assert outcome(undone, False, 21 * DAY, command) == undone
    assert outcome(undone, True, 21 * DAY, command) == undone
    again = reconsider(SPEC, undone, a_signal("e2", 30))
    assert (again.cause, "after 2 without help" in again.reason) == ("cooldown", True)


def test_a_retrain_that_turns_out_not_to_have_helped_after_a_later_one_did_stops_nothing() -> None:
    later = decide(SPEC, after_a_retrain(helped=True), a_signal("e2", 14)).state

    in_flight = outcome(later, False, 15 * DAY, command_id("e1", 1))
    helped = outcome(later, True, 15 * DAY)

    assert (in_flight.failures, in_flight.in_flight) == (1, command_id("e2", 1))
    assert outcome(helped, False, 16 * DAY, command_id("e1", 1)).failures == 0


@pytest.mark.parametrize("order", [("e2", "e3"), ("e3", "e2")])
def test_two_retrains_that_turn_out_not_to_have_helped_count_alike_in_either_order(
    order: tuple[str, ...],
) -> None:
    state = after_a_retrain(helped=False)
    for day, episode in ((14, "e2"), (30, "e3")):
        state = outcome(decide(SPEC, state, a_signal(episode, day)).state, True, (day + 1) * DAY)
    assert state.failures == 0

    for episode in order:
        state = outcome(state, False, 40 * DAY, command_id(episode, 1))

    assert state.failures == 3
    assert all(not answer.forgiven for answer in state.answers)
