"""How well models are delivered, read from the loop ledger: how soon, how often, and how much of it was in vain.

The four figures by which delivery is measured elsewhere, for retrainings. What lies
between drift and a new version counts in event time, for that is how long predictions
were worse than they need have been; work counts by the wall clock.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from statistics import median

from trimtab_contracts.monitoring.v1.monitoring_pb2 import Loop
from trimtab_runtime.clock import from_timestamp

_MONTH_MS = 30 * 86_400_000


@dataclass(frozen=True, slots=True)
class Delivery:
    """Figures of some loops; None where nothing was there to tell them by."""

    model: str
    loops: int
    declined: int
    """Loops in which the policy saw no cause to retrain."""
    rehearsed: int
    """Loops in which a dry run said what it would have ordered."""
    commanded: int
    live: int
    """Loops whose version went live, also one that was taken back since."""
    live_a_month: float | None
    """Per 30 days of event time, from the first loop to the last that has one."""
    lead_time_ms: int | None
    """From the drift to the live version, in event time; the median."""
    work_ms: int | None
    """From the trigger to the live version by the wall clock, waiting for the trial and for people included; the median."""
    failed_share: float | None
    """Of the commands that have come to an end: those that gave no version which passed its gates."""
    rolled_back_share: float | None
    """Of the versions that came to a trial or live and are done with it: those that were taken back."""
    restored_ms: int | None
    """In event time, the median: from when a version went live that was taken back to when the one before, or another, was live instead.

    Where it is a run in vain, or a version that was taken back from its trial: from there to the next live one that is not taken back.
    """
    spent_ms: int | None
    """By all runs that have ended, by the wall clock."""
    saved: float | None
    """Loss, by the predictions since each version is live beside the one before; None too where metrics differ."""
    metric: str
    """Of what was saved."""


def saved(loop: Loop) -> float:
    """Return how much loss a loop's version has saved so far, over all its predictions."""
    return loop.gain.a_row * loop.gain.rows


def summary(loops: Sequence[Loop]) -> list[Delivery]:
    """Return the figures of each model by name and, where there are several, of all together."""
    models = sorted({loop.model for loop in loops})
    found = [_figures(model, [loop for loop in loops if loop.model == model]) for model in models]
    return [*found, _figures("all", loops)] if len(models) > 1 else found


def _figures(model: str, loops: Sequence[Loop]) -> Delivery:
    commanded = [loop for loop in loops if loop.command_id]
    live = [loop for loop in loops if _went_live(loop)]
    vain = [loop for loop in commanded if loop.state in ("failed", "refused") and not _went_live(loop)]
    back = [loop for loop in loops if loop.state == "rolled_back" or loop.HasField("taken_back_at")]
    done = len(live) + sum(not _went_live(loop) for loop in back)
    times = [at for loop in loops if (at := _event_ms(loop)) is not None]
    gained = [loop for loop in loops if loop.HasField("gain")]
    metrics = {(loop.model, loop.gain.metric) for loop in gained}
    span_ms = max(times) - min(times) if times else 0
    return Delivery(
        model=model,
        loops=len(loops),
        declined=sum(loop.state == "declined" for loop in loops),
        rehearsed=sum(loop.state == "dry_run" for loop in loops),
        commanded=len(commanded),
        live=len(live),
        live_a_month=len(live) * _MONTH_MS / span_ms if span_ms else None,
        lead_time_ms=_median(
            from_timestamp(loop.settled_at) - from_timestamp(loop.drift_at)
            for loop in live
            if loop.HasField("settled_at") and loop.HasField("drift_at") and _settled_live(loop)
        ),
        work_ms=_median(
            from_timestamp(loop.steps["live"]) - from_timestamp(loop.steps["triggered"])
            for loop in live
            if {"live", "triggered"} <= set(loop.steps)
        ),
        failed_share=_share(len(vain), len(vain) + done),
        rolled_back_share=_share(len(back), done),
        restored_ms=_median(_restored(loops)),
        spent_ms=_sum(round(loop.cost.wall_seconds * 1000) for loop in loops if loop.HasField("cost")),
        saved=sum(map(saved, gained)) if len(metrics) == 1 else None,
        metric=next(iter(metrics))[1] if len(metrics) == 1 else "",
    )


def _went_live(loop: Loop) -> bool:
    return loop.state == "live" or "live" in loop.steps


def _settled_live(loop: Loop) -> bool:
    """Whether a loop was settled by its version's going live, and not by a later trial of it."""
    return loop.state == "live" or loop.HasField("taken_back_at")


def _restored(loops: Iterable[Loop]) -> list[int]:
    """Return how long each failure lasted that was made good, as `Delivery.restored_ms` has it."""
    ended = sorted(
        (loop for loop in loops if loop.HasField("settled_at")), key=lambda it: from_timestamp(it.settled_at)
    )
    found, since, bad = list[int](), dict[str, int](), dict[str, tuple[int, int]]()
    for loop in ended:
        at, model = from_timestamp(loop.settled_at), loop.model
        if _went_live(loop) and model in bad:
            live_ms, back_ms = bad.pop(model)
            found.append(min(at, back_ms) - live_ms)
        if loop.HasField("taken_back_at"):
            bad[model] = at, from_timestamp(loop.taken_back_at)
        elif loop.state == "live" and model in since:
            found.append(at - since.pop(model))
        elif loop.state in ("failed", "refused", "rolled_back"):
            since.setdefault(model, at)
    return [*found, *(back_ms - live_ms for live_ms, back_ms in bad.values())]


def _event_ms(loop: Loop) -> int | None:
    for name in ("drift_at", "settled_at"):
        if loop.HasField(name):
            return from_timestamp(getattr(loop, name))
    return None


def _median(values: Iterable[int]) -> int | None:
    found = list(values)
    return round(median(found)) if found else None


def _sum(values: Iterable[int]) -> int | None:
    found = list(values)
    return sum(found) if found else None


def _share(part: int, whole: int) -> float | None:
    return part / whole if whole else None
