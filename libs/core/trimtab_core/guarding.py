"""The guardrails of a rollout, fed with requests as soon as they are known to be complete; no label is waited for.

Requests count in order of (time, id), so the answer does not depend on how they were
batched. A verdict is said once a step.

Each arm of an A/B test is held beside the champion at alpha / arms (Bonferroni), as the
judge does it, so any of those that are within what is stated is taken back for it with
probability at most alpha. The first arm beyond it leaves; it says nothing of the others.
"""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from trimtab_core import guardrails
from trimtab_core.guardrails import GuardSpec, Rail
from trimtab_core.specs import ModelSpec
from trimtab_core.trial import others_of
from trimtab_core.watched import Asked, Guard, Guards, Said, Standing, Verdict


def begun(guards: Guards | None, standing: Standing, spec: ModelSpec, closed_ms: int) -> Guards:
    """Return the guards of the rollout that is on, which look at the requests after what was closed when it began."""
    if guards is not None and guards.rollout_id == standing.rollout_id:
        return guards
    held_to = GuardSpec.of(spec.rollout.guardrails, standing.began)
    arms = tuple(Guard(arm.version, held_to) for arm in standing.on_trial)
    return Guards(standing.rollout_id, closed_ms + 1, arms=arms)


def take(guards: Guards, requests: Sequence[Asked], until_ms: int | None = None) -> Guards:
    """Take in further requests, in order; a version's are those that it could be asked.

    They are all up to `until_ms`, or with more to follow where that is not given.
    """
    if until_ms is not None and until_ms < guards.from_ms:
        return guards
    from_ms, after_id = (until_ms + 1, "") if until_ms is not None else requests[-1][:2]
    said = [_said(each) for each in requests]
    arms = tuple(_fed(guard, requests, said) for guard in guards.arms)
    return replace(guards, from_ms=from_ms, after_id=after_id, arms=arms)


def are_tripped(guards: Guards) -> bool:
    """Whether further requests change nothing."""
    return all(guard.tripped_ms is not None for guard in guards.arms)


def verdict(model: str, guards: Guards | None, standing: Standing, recorded_ms: int) -> Verdict | None:
    """Return what is to be said of the step at which the rollout stands, if a guardrail was tripped and that is not said yet.

    Of several arms it is about the one that tripped one first.
    """
    if guards is None or guards.rollout_id != standing.rollout_id or guards.said_at_step == standing.step:
        return None
    on_trial = {arm.version for arm in standing.on_trial}
    tripped = [
        (guard.tripped_ms, guard)
        for guard in guards.arms
        if guard.challenger in on_trial and guard.tripped_ms is not None
    ]
    if not tripped:
        return None
    at_ms, guard = min(tripped, key=lambda each: each[0])
    rail = next(
        each for each in guardrails.rails(guard.spec, guard.state) if each.which == guard.state.tripped
    )
    return Verdict(
        id=f"{guards.rollout_id}/{standing.step}/{rail.which}",
        model=model,
        rollout_id=guards.rollout_id,
        step=standing.step,
        challenger=guard.challenger,
        generation=standing.generation,
        outcome="ROLL_BACK",
        rows=rail.tally.requests,
        mean_difference=0.0,
        evidence=rail.evidence,
        alpha=guard.spec.alpha / 2,
        sentence=_sentence(guard, rail),
        at_ms=at_ms,
        recorded_ms=recorded_ms,
        guardrail=rail.which,
    )


def _said(request: Asked) -> dict[int, Said]:
    """Return what each version on trial said of a request, and how long it ran."""
    others = others_of(request.others).said if request.others else ()
    challenger = Said(request.challenger_version, request.challenger, took_us=request.challenger_us or 0)
    return {each.version: each for each in (challenger, *others)}


def _fed(guard: Guard, requests: Sequence[Asked], said: Sequence[dict[int, Said]]) -> Guard:
    if guard.tripped_ms is not None:
        return guard
    mine = [
        (request, theirs)
        for request, each in zip(requests, said, strict=True)
        if (theirs := each.get(guard.challenger)) is not None and theirs.took_us
    ]
    champion, challenger = (
        np.array([np.nan if answer is None else answer for answer in answers], np.float64)
        for answers in ([request.champion for request, _ in mine], [theirs.answer for _, theirs in mine])
    )
    state = guardrails.update(
        guard.spec,
        guard.state,
        [request.champion_us for request, _ in mine],
        [theirs.took_us for _, theirs in mine],
        ~np.isfinite(champion),
        ~np.isfinite(challenger),
    )
    tripped_ms = mine[state.at][0].at_ms if state.tripped and state.at is not None else None
    return replace(guard, state=state, tripped_ms=tripped_ms)


def _sentence(guard: Guard, rail: Rail) -> str:
    held = rail.tally
    if rail.which == "failures":
        said = f"version {guard.challenger} alone had no answer to {held.theirs} of {held.requests} requests, and the champion alone to"
    else:
        said = (
            f"version {guard.challenger} alone took more than {guard.state.limit_us / 1000:.3g} ms for {held.theirs} of "
            f"{held.requests} requests, and the champion alone for"
        )
    return (
        f"A guardrail stops it before its labels are in: {said} {held.ours}; {rail.allowed:.1%} more are allowed "
        f"(alpha {guard.spec.alpha / 2:.3g})."
    )
