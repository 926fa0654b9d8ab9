"""How a loop's row follows what happens, in whatever order the topics tell it.

Up to the candidate the facts come from several topics, so the furthest one wins;
from there on the registry alone tells, in order, and its last word holds. Each fact
may be told again: it changes nothing.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final, Literal

from trimtab_core.policy import Decision
from trimtab_core.watched import Drift, Due, Verdict

from trimtab_monitoring.usecases.entities import Command, Cost, Decided, Gate, Loop

_ORDER: Final = (
    "triggered", "declined", "dry_run", "commanded", "training", "gating", "failed", "cancelled",
)  # fmt: skip
"""The states before there is a version, from the first to the last."""
_ENDED: Final = frozenset({"live", "refused", "rolled_back", "failed", "cancelled"})
_RESTING: Final = _ENDED | {"declined", "dry_run", "awaiting_checks", "awaiting_approval"}
"""States in which nothing more happens by itself."""
_MOST_DECISIONS: Final = 20
"""So many of a loop's newest decisions are kept."""

Stage = Literal[
    "REFUSED",
    "AWAITING_CHECKS",
    "AWAITING_APPROVAL",
    "REJECTED",
    "ACCEPTED",
    "ON_TRIAL",
    "LIVE",
    "ROLLED_BACK",
    "RETIRED",
]
_STAGES: Final[dict[Stage, str]] = {
    "REFUSED": "refused",
    "AWAITING_CHECKS": "awaiting_checks",
    "AWAITING_APPROVAL": "awaiting_approval",
    "REJECTED": "refused",
    "ACCEPTED": "loading",
    "ON_TRIAL": "on_trial",
    "LIVE": "live",
    "ROLLED_BACK": "rolled_back",
}
_JUDGED: Final = {"PROMOTE": "promoting", "ROLL_BACK": "rolling_back", "UNDECIDED": "rolling_back"}
"""What the registry is about to do after a verdict; one that only advances the rollout leaves the loop on trial."""


@dataclass(frozen=True, slots=True)
class RunNews:
    """What became of a run."""

    id: str
    run_id: str
    command_id: str
    loop_id: str
    model: str
    trigger: str
    state: Literal["training", "gating", "failed", "cancelled"]
    as_of_ms: int
    at_ms: int
    error: str = ""
    cancelled_by: str = ""
    cancel_reason: str = ""
    cost: Cost | None = None


@dataclass(frozen=True, slots=True)
class StageNews:
    """What became of a version."""

    id: str
    model: str
    number: int
    run_id: str
    loop_id: str
    stage: Stage
    rollout_id: str
    gates: Sequence[Gate]
    sentence: str
    at_ms: int
    person: str = ""
    """Who decided it, if anybody did."""


def has_ended(loop: Loop) -> bool:
    """Whether the loop has come to an outcome."""
    return loop.state in _ENDED


def is_on_trial(loop: Loop, rollout_id: str) -> bool:
    """Whether the registry has said that this rollout's challenger is warm everywhere; it takes no verdict before."""
    return loop.state == "on_trial" and loop.rollout_id == rollout_id


def helped(loop: Loop) -> bool | None:
    """Whether the loop ended with a new live version that was not found worse; None if a person ended it before that could be known."""
    if loop.state == "cancelled":
        return None
    return "live" in loop.steps and loop.taken_back_ms is None and not loop.worse


def triggered(drift: Drift, traceparent: str | None) -> Loop:
    """Return the loop that a drift event opens; its id is the episode's."""
    return Loop(
        id=drift.episode,
        model=drift.model,
        trigger=drift.kind,
        drift=drift,
        traceparent=traceparent,
        steps={"triggered": drift.recorded_ms},
    )


def due(model: str, due: Due, at_ms: int, traceparent: str | None) -> Loop:
    """Return the loop of a retrain that is due without drift."""
    return Loop(
        id=due.id, model=model, trigger=due.trigger, traceparent=traceparent, steps={"triggered": at_ms}
    )


def decided(loop: Loop, decision: Decision, as_of_ms: int) -> Loop:
    """Return the loop with what the policy decided at an event time, if it is for another cause than the last time."""
    cause = "dry_run" if decision.action == "rehearse" else decision.cause
    if loop.decisions and loop.decisions[-1].cause == cause:
        return loop
    now = Decided(as_of_ms, cause, decision.reason)
    return replace(loop, decisions=(*loop.decisions, now)[-_MOST_DECISIONS:])


def declined(loop: Loop, decision: Decision, at_ms: int) -> Loop:
    """Write down why the policy gives no command; of a loop that has had one, that stays its reason."""
    if loop.command_id:
        return loop
    return replace(_reach(loop, "declined", at_ms), reason=decision.reason)


def rehearsed(loop: Loop, decision: Decision, at_ms: int) -> Loop:
    """Write down what a dry run would have ordered, and why."""
    return replace(_reach(loop, "dry_run", at_ms), reason=decision.reason)


def commanded(loop: Loop, command: Command) -> Loop:
    """Write down the command that a loop was given."""
    return replace(
        _reach(loop, "commanded", command.at_ms),
        trigger=loop.trigger or command.trigger,
        reason=command.reason,
        command_id=command.id,
        as_of_ms=command.as_of_ms,
    )


def ran(loop: Loop, run: RunNews) -> Loop:
    """Write down what became of the loop's run."""
    loop = replace(
        _reach(loop, run.state, run.at_ms),
        trigger=loop.trigger or run.trigger,
        command_id=loop.command_id or run.command_id,
        run_id=run.run_id,
        as_of_ms=run.as_of_ms,
        cost=run.cost or loop.cost,
    )
    if run.state == loop.state and has_ended(loop):
        loop = replace(loop, outcome=_end_of(run), settled_ms=run.as_of_ms)
    return loop


def staged(loop: Loop, news: StageNews) -> Loop:
    """Write down what the registry made of the loop's version."""
    loop = replace(
        loop,
        version=news.number,
        run_id=loop.run_id or news.run_id,
        rollout_id=news.rollout_id or loop.rollout_id,
        gates=tuple(news.gates) or loop.gates,
    )
    if news.stage not in _STAGES:
        return loop
    state = _STAGES[news.stage]
    if state == "rolled_back" and news.person and "live" not in loop.steps:
        state = "cancelled"
    steps = {**loop.steps, state: news.at_ms}
    if state == "live":  # a version that is put back was live before
        steps = {state: news.at_ms, **loop.steps}
    loop = replace(loop, state=state, open=state not in _RESTING, steps=steps)
    if state not in _RESTING:
        return replace(loop, outcome="", settled_ms=None)
    settled = loop.verdict.at_ms if loop.verdict else loop.as_of_ms
    return replace(loop, outcome=_outcome(state, news), settled_ms=settled)


def timed(before: Loop, after: Loop, closed_ms: int) -> Loop:
    """Return the loop as it came to be, with when its version was taken back that was live till now, in event time.

    `closed_ms` is how far the model's predictions are closed. They are closed with a delay, which is the same when a version goes live,
    and so how long it was live is told by both.
    """
    if after.state == "live" != before.state:
        return replace(after, live_closed_ms=closed_ms)
    if (before.state, after.state) != ("live", "rolled_back"):
        return after
    settled_ms = closed_ms if before.settled_ms is None else before.settled_ms
    since_ms = settled_ms if before.live_closed_ms is None else before.live_closed_ms
    return replace(after, settled_ms=settled_ms, taken_back_ms=settled_ms + max(closed_ms - since_ms, 0))


def judged(loop: Loop, verdict: Verdict) -> Loop:
    """Write down what the judge said; what it calls for is still to be done."""
    loop = replace(loop, verdict=verdict)
    state = _JUDGED.get(verdict.outcome)
    if state is None:
        return loop
    return replace(loop, state=state, open=True, steps={**loop.steps, state: verdict.recorded_ms})


def _reach(loop: Loop, state: str, at_ms: int) -> Loop:
    """Return the loop with the time at which it reached `state`, and in it unless it is further already."""
    steps = {state: at_ms, **loop.steps}
    if loop.state not in _ORDER or _ORDER.index(loop.state) > _ORDER.index(state):
        return replace(loop, steps=steps)
    return replace(loop, state=state, open=state not in _RESTING, steps=steps)


def _end_of(run: RunNews) -> str:
    if run.state == "failed":
        return f"The run failed: {run.error}"
    by = f"The run was cancelled by {run.cancelled_by}"
    return f"{by}: {run.cancel_reason}" if run.cancel_reason else f"{by}."


def _outcome(state: str, news: StageNews) -> str:
    said = {
        "refused": f"Version {news.number} was refused",
        "awaiting_checks": f"Version {news.number} waits for checks from outside",
        "awaiting_approval": f"Version {news.number} waits for a person",
        "live": f"Version {news.number} is live",
        "rolled_back": f"Version {news.number} was rolled back",
        "cancelled": f"Version {news.number} was taken off its trial",
    }
    return f"{said[state]}: {news.sentence}" if news.sentence else f"{said[state]}."
