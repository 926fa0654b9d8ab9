"""When windows over their level become one alarm, and when the next may come.

An episode gives exactly one alarm, whatever follows, until the clear level has
been reached or another version is live; its id depends on nothing but what it is.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from trimtab_core.calibration import Rule, WindowVerdict
from trimtab_core.concept import ChangeState
from trimtab_core.naming import id_of

DriftKind = Literal["data", "prediction", "performance", "concept"]


@dataclass(frozen=True, slots=True)
class EpisodeState:
    """What is remembered between the windows of one kind of drift of one model."""

    version: str = ""
    recent: tuple[bool, ...] = ()
    """Whether each of the last windows was over, oldest first; at most n of the rule."""
    episode: str | None = None
    """The open episode, if there is one."""
    opened_at: float | None = None
    """Where the open episode's window began, in seconds of event time."""
    began: tuple[float, ...] = ()
    """Where each of `recent` began."""
    change: ChangeState = field(default_factory=ChangeState)
    """Of `concept`, which has no windows to count: what the losses so far have come to."""


@dataclass(frozen=True, slots=True)
class DriftAlarm:
    """An episode has opened: what drifted, and the evidence of its opening window."""

    episode: str
    model: str
    version: str
    kind: DriftKind
    opened_at: float
    min_p: float
    drifted: tuple[str, ...]
    scores: Mapping[str, float]
    p_values: Mapping[str, float]
    changed_at: float = 0.0
    """Where the first of its windows that were over began: rows from here on are of what has changed."""


def episode_id(model: str, version: str, kind: DriftKind, opened_at: float) -> str:
    """Return the id of the episode that opened with the window that began at `opened_at`, to the millisecond."""
    return id_of(model, version, kind, f"{opened_at:.3f}")


def step(
    state: EpisodeState,
    verdict: WindowVerdict,
    window_opened_at: float,
    *,
    rule: Rule,
    model: str,
    version: str,
    kind: DriftKind,
) -> tuple[EpisodeState, DriftAlarm | None]:
    """Take in one window, in event-time order, and return the alarm that it raises, if any.

    `window_opened_at` is where the window begins, in seconds of event time. A new `version` starts afresh: its open
    episode is closed and the earlier version's windows are forgotten.
    """
    if version != state.version:
        state = EpisodeState(version)
    if state.episode is not None:
        return (EpisodeState(version) if verdict.clear else state), None
    recent = (*state.recent, verdict.over)[-rule.n :]
    began = (*state.began, window_opened_at)[-rule.n :]
    if not verdict.over or sum(recent) < rule.k:
        return EpisodeState(version, recent, began=began), None
    # A state that was kept before it knew where windows began has fewer of those: the oldest are missing.
    over = [at for at, was in zip(reversed(began), reversed(recent), strict=False) if was]
    episode = episode_id(model, version, kind, window_opened_at)
    alarm = DriftAlarm(
        episode,
        model,
        version,
        kind,
        window_opened_at,
        verdict.min_p,
        verdict.drifted,
        verdict.scores,
        verdict.p_values,
        over[-1],
    )
    return EpisodeState(version, (), episode, window_opened_at), alarm
