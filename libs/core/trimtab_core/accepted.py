"""Whether a live version keeps the accepted level: a sequential test of its labelled rows against what a user states.

A version whose mean loss, given the rows before, never is above the level is said to be above it with probability at
most alpha, however long it lives and however often one looks. The answer depends on the rows and their order, never on
how they were batched; another version, or another level, is tested from the beginning.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final, Literal

import numpy as np
from numpy.typing import NDArray

from trimtab_core.baseline import Settings
from trimtab_core.guardrails import BETS
from trimtab_core.losses import aggregate, as_loss
from trimtab_core.naming import id_of
from trimtab_core.specs import LEAST_WINDOW, Model, ModelSpec
from trimtab_core.timestamps import iso
from trimtab_core.watched import Accept, Acceptance, Bet, Drift, Reading, Row

Floats = NDArray[np.float64]

_EARLY: Final = 10.0
"""So many rows of a version are nearly alike as a begin of the bets; those after them get ever less of the first wealth."""


@dataclass(frozen=True, slots=True)
class Word:
    """What there is to say of a version at a row of its, or of the version after it."""

    what: Literal["standing", "exceeded", "goes on", "over"]
    version: int
    at_ms: int
    from_ms: int
    to_ms: int
    rows: int
    """From and to there: of `standing` all that were tested, of `exceeded` those since when it is likely to be above, of `goes on` the newest."""
    mean: float
    """Of their losses; 0 where none is told."""
    evidence: float
    episode: str = ""
    sentence: str = ""
    """Why it is over."""


def held_to(spec: ModelSpec) -> Accept | None:
    """Return what a model's live version is held to, None if the spec accepts no level."""
    accept = spec.accepted
    if accept is None:
        return None
    return Accept(spec.judged_by, as_loss(spec.judged_by, accept.at_most), spec.most, accept.alpha)


def bet(state: Acceptance, losses: Sequence[float], times_ms: Sequence[int]) -> tuple[Acceptance, int | None]:
    """Take in further losses, clipped, and return at which of them the evidence was enough, if at any; the rest is left out.

    The evidence is the wealth of betting against "the mean is at most the level" (Waudby-Smith and Ramdas 2023,
    "Estimating means of bounded random variables by betting"), averaged over steady bets. A part of the first wealth is
    kept for a begin at each row, ln 10 / ln(n + 9) - ln 10 / ln(n + 10) at row n: all parts are 1 together, so it stays a
    supermartingale while the level is kept, and many good rows delay what is seen after them by their logarithm alone.
    """
    level, needed = state.held_to.level, state.held_to.needed
    before = state.bets or (Bet(),) * len(BETS)
    wealths, bests = [each.wealth for each in before], [each.best for each in before]
    begun = [each[2:] for each in before]
    rows, total, evidence, found = state.rows, state.total, state.evidence, None
    left = _left(rows)
    for at, lost in enumerate(losses):
        kept, left = left, _left(rows + 1)
        begin, beyond = kept - left, lost / level - 1
        for each, share in enumerate(BETS):
            if begin > bests[each]:
                bests[each], begun[each] = begin, (times_ms[at], rows, total)
            factor = 1 + share * beyond
            wealths[each] = (wealths[each] + begin) * factor
            bests[each] *= factor
        rows, total, evidence = rows + 1, total + lost, sum(wealths) / len(wealths) + left
        if evidence >= needed:
            found = at
            break
    bets = tuple(Bet(*each) for each in zip(wealths, bests, *zip(*begun, strict=True), strict=True))
    from_ms = state.from_ms if state.rows or not times_ms else times_ms[0]
    return replace(state, rows=rows, total=total, from_ms=from_ms, evidence=evidence, bets=bets), found


def take(
    model: Model, settings: Settings, before: Acceptance | None, rows: Sequence[Row], losses: Floats
) -> tuple[Acceptance | None, list[Word]]:
    """Take in closed rows with the clipped loss of each, NaN without a label; return what there is to say, in order.

    How a version stands is told after each `settings.window` labelled rows or, by time, with the first row after a
    stretch that has enough. An episode is over after as many of those in a row as an alarm of windows needs, each with a mean
    that is accepted, or when another version answers or the spec accepts another level.
    """
    accept, words = held_to(model.spec), list[Word]()
    state = before
    if before is not None and before.held_to != accept:
        words += _ended(before, before.stretch_ms, "the spec accepts another level now")
        state = Acceptance(accept, before.version, before.generation) if accept else None
    if accept is None:
        return None, words
    state = state or Acceptance(accept)
    taken = _Taken(model.name, settings, state, words)
    for row, lost in zip(rows, losses.tolist(), strict=True):
        taken.row(row, lost)
    taken.flush()
    return taken.state, words


def reading(model: str, state: Acceptance, word: Word) -> Reading:
    """Return how a version stands, as it is told."""
    return Reading(
        "performance", model, word.version, "evidence_above_accepted", word.evidence, word.from_ms, word.to_ms,
        word.rows, threshold=state.held_to.needed,
    )  # fmt: skip


def severity(state: Acceptance, word: Word) -> float:
    """Return how many times the accepted level the rows of a word come to."""
    metric = state.held_to.metric
    return aggregate(metric, [word.mean]) / aggregate(metric, [state.held_to.level])


def drift(model: str, state: Acceptance, word: Word, *, fault: str, report: str, recorded_ms: int) -> Drift:
    """Return the drift event of an `exceeded`: `fault` is what is bad of the data, `report` where the report will be."""
    held = state.held_to
    value, limit = aggregate(held.metric, [word.mean]), aggregate(held.metric, [held.level])
    summary = (
        f"The {held.metric} of version {word.version} is above the accepted {limit:.3g}: {value:.3g} over {word.rows} "
        f"predictions of {iso(word.from_ms)[:16]} to {iso(word.to_ms)[:16]}; the evidence is {word.evidence:.3g} to 1, and "
        f"{held.needed:.3g} to 1 is needed."
    )
    return Drift(
        episode=word.episode, model=model, version=word.version, kind="performance", at_ms=word.at_ms, from_ms=word.from_ms,
        rows=word.rows, score=value, threshold=limit, severity=severity(state, word), features=(), summary=summary,
        report=report, recorded_ms=recorded_ms, changed_ms=word.from_ms, fault=fault, scale="accepted",
    )  # fmt: skip


class _Taken:
    """The rows of one closing on their way into the test."""

    def __init__(self, model: str, settings: Settings, state: Acceptance, words: list[Word]) -> None:
        self.state = state
        self._model = model
        self._window, self._every_ms = settings.window, settings.every_ms
        self._patience = settings.rule.k
        self._words = words
        self._losses = list[float]()
        self._times = list[int]()

    def row(self, row: Row, lost: float) -> None:
        """Take in a row, of the version that is live."""
        if row.generation > self.state.generation:
            if row.version != self.state.version:
                self.flush()
                self._words += _ended(self.state, row.at_ms, f"version {row.version} answers now")
                self.state = Acceptance(self.state.held_to, row.version)
            self.state = replace(self.state, generation=row.generation)
        if row.version != self.state.version or lost != lost:
            return
        if self._is_passed(row.at_ms):
            self.flush()
            if self._is_passed(row.at_ms):  # or else it began anew with an episode
                self._end_stretch(row.at_ms)
        self._losses.append(lost)
        self._times.append(row.at_ms)
        if self._is_full():
            self.flush()
            if self._is_full():
                self._end_stretch(row.at_ms)

    def flush(self) -> None:
        """Test what was gathered."""
        losses, times = self._losses, self._times
        self._losses, self._times = [], []
        if not losses:
            return
        last_ms, at = times[-1], None
        if not self.state.episode:
            self.state, at = bet(self.state, losses, times)
        if at is not None:
            self._exceeded(times[at])
            losses, times = losses[at + 1 :], times[at + 1 :]
        total = self.state.stretch_total
        for lost in losses:
            total += lost
        first_ms = self.state.stretch_ms if self.state.stretch or not times else times[0]
        self.state = replace(
            self.state,
            stretch=self.state.stretch + len(losses),
            stretch_ms=first_ms,
            stretch_to_ms=last_ms,
            stretch_total=total,
        )

    @property
    def _count(self) -> int:
        return self.state.stretch + len(self._losses)

    def _is_full(self) -> bool:
        return self._every_ms is None and self._count >= self._window

    def _is_passed(self, at_ms: int) -> bool:
        """Whether a row is of a later stretch of time than those since the standing was told."""
        if self._every_ms is None or self._count < LEAST_WINDOW:
            return False
        first_ms = self.state.stretch_ms if self.state.stretch else self._times[0]
        return at_ms // self._every_ms > first_ms // self._every_ms

    def _end_stretch(self, at_ms: int) -> None:
        """Say how the version stands, and whether its episode goes on."""
        state = self.state
        standing = Word(
            "standing", state.version, at_ms, state.from_ms, state.stretch_to_ms, state.rows, 0.0, state.evidence,
        )  # fmt: skip
        self._words.append(standing)
        mean = state.stretch_total / state.stretch
        kept = 0
        if state.episode:
            newest = replace(standing, from_ms=state.stretch_ms, rows=state.stretch, mean=mean, episode=state.episode)  # fmt: skip
            kept = state.kept + 1 if mean <= state.held_to.level else 0
            if kept < self._patience:
                self._words.append(replace(newest, what="goes on"))
            else:
                self._words += _ended(state, at_ms, "its newest labelled rows keep it")
                self.state = Acceptance(state.held_to, state.version, state.generation)
                return
        self.state = replace(state, stretch=0, stretch_total=0.0, kept=kept)

    def _exceeded(self, at_ms: int) -> None:
        state = self.state
        best = max(state.bets)
        rows = state.rows - best.rows
        episode = id_of(self._model, state.version, "accepted", at_ms)
        self._words.append(
            Word(
                "exceeded", state.version, at_ms, best.from_ms, at_ms, rows, (state.total - best.total) / rows,
                state.evidence, episode,
            )
        )  # fmt: skip
        self.state = replace(state, episode=episode, stretch=0, stretch_total=0.0)


def _ended(state: Acceptance, at_ms: int, why: str) -> list[Word]:
    """Return the word that an episode is over, if one is open."""
    if not state.episode:
        return []
    sentence = f"Version {state.version} is no longer said to be above the accepted level: {why}."
    return [
        Word("over", state.version, at_ms, state.from_ms, at_ms, state.rows, 0.0, state.evidence, state.episode, sentence)
    ]  # fmt: skip


def _left(rows: int) -> float:
    """Return the part of the first wealth that is kept for rows after so many."""
    return math.log(_EARLY) / math.log(rows + _EARLY)
