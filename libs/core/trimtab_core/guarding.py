"""The guardrails of a rollout, fed with requests as soon as they are known to be complete; no label is waited for.

Requests count in order of (time, id), so the answer does not depend on how they were
batched. A verdict is said once a step.
"""

import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from trimtab_core import guardrails
from trimtab_core.guardrails import GuardSpec
from trimtab_core.specs import ModelSpec
from trimtab_core.watched import Asked, Guard, Standing, Verdict


def begun(guard: Guard | None, standing: Standing, spec: ModelSpec, closed_ms: int) -> Guard:
    """Return the guard of the rollout that is on, which looks at the requests after what was closed when it began."""
    place = (standing.rollout_id, standing.challenger)
    if guard is not None and (guard.rollout_id, guard.challenger) == place:
        return guard
    return Guard(
        standing.rollout_id, standing.challenger, GuardSpec.of(spec.rollout.guardrails), closed_ms + 1
    )


def take(guard: Guard, requests: Sequence[Asked], until_ms: int | None = None) -> Guard:
    """Take in further requests, in order; those of another challenger do not count.

    They are all up to `until_ms`, or with more to follow where that is not given.
    """
    if guard.state.tripped or (until_ms is not None and until_ms < guard.from_ms):
        return guard
    reached = (until_ms + 1, "") if until_ms is not None else (requests[-1].at_ms, requests[-1].id)
    mine = [each for each in requests if each.challenger_version == guard.challenger]
    champion, challenger = (
        np.array([np.nan if said is None else said for said in column], np.float64)
        for column in ([each.champion for each in mine], [each.challenger for each in mine])
    )
    state = guardrails.update(
        guard.spec,
        guard.state,
        [each.champion_us for each in mine],
        [each.challenger_us for each in mine],
        ~np.isfinite(champion),
        ~np.isfinite(challenger),
    )
    tripped_ms = mine[state.at].at_ms if state.tripped and state.at is not None else None
    return replace(guard, state=state, from_ms=reached[0], after_id=reached[1], tripped_ms=tripped_ms)


def verdict(model: str, guard: Guard | None, standing: Standing, recorded_ms: int) -> Verdict | None:
    """Return what is to be said of the step at which the rollout stands, if a guardrail was tripped and that is not said yet."""
    if guard is None or guard.rollout_id != standing.rollout_id or guard.said_at_step == standing.step:
        return None
    if guard.state.tripped is None or guard.tripped_ms is None or guard.challenger != standing.challenger:
        return None
    tally, margin = (
        (guard.state.failures, guard.spec.failures)
        if guard.state.tripped == "failures"
        else (guard.state.latency, guard.spec.slow)
    )
    counts = np.array([tally.theirs, tally.ours, tally.alike])
    return Verdict(
        id=f"{guard.rollout_id}/{standing.step}/{guard.state.tripped}",
        model=model,
        rollout_id=guard.rollout_id,
        step=standing.step,
        challenger=guard.challenger,
        generation=standing.generation,
        outcome="ROLL_BACK",
        rows=tally.requests,
        mean_difference=0.0,
        evidence=math.exp(float(guardrails.log_wealth(counts, margin))),
        alpha=guard.spec.alpha / 2,
        sentence=_sentence(guard, tally.theirs, tally.ours, tally.requests, margin),
        at_ms=guard.tripped_ms,
        recorded_ms=recorded_ms,
        guardrail=guard.state.tripped,
    )


def _sentence(guard: Guard, theirs: int, ours: int, requests: int, margin: float) -> str:
    if guard.state.tripped == "failures":
        said = f"version {guard.challenger} alone had no answer to {theirs} of {requests} requests, and the champion alone to"
    else:
        said = (
            f"version {guard.challenger} alone took more than {guard.state.limit_us / 1000:.3g} ms for {theirs} of {requests} "
            "requests, and the champion alone for"
        )
    return (
        f"A guardrail stops it before its labels are in: {said} {ours}; {margin:.1%} more are allowed "
        f"(alpha {guard.spec.alpha / 2:g})."
    )
