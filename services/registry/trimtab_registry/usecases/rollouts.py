"""Where a model stands, and the only ways in which that changes.

`MOVES` is the whole state machine of a rollout; what it does not list is refused.
Once a model has a champion it has exactly one until a person takes the model out of
service, and each change of what serving and monitoring are told raises `generation`
by one.
"""

from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Literal, Self

Strategy = Literal["immediate", "shadow", "canary", "ab"]


class Phase(StrEnum):
    """How far a rollout is."""

    LOADING = "loading"
    """Serving is told to load the challenger, which will be judged."""
    LOADING_TO_SERVE = "loading_to_serve"
    """Serving is told to load the challenger, which becomes champion once it is warm."""
    ON_TRIAL = "on_trial"
    """Warm everywhere: both versions score, and monitoring judges."""
    PROMOTED = "promoted"
    DROPPED = "dropped"


class Move(StrEnum):
    """What may happen to a rollout."""

    WARM = "warm"
    """Every instance has the challenger warm."""
    ADVANCE = "advance"
    PROMOTE = "promote"
    DROP = "drop"
    HURRY = "hurry"
    """A person promotes it: no more judging."""
    LEAVE = "leave"
    """One of several challengers goes, and the others stay."""


MOVES: dict[tuple[Phase, Move], Phase] = {
    (Phase.LOADING, Move.WARM): Phase.ON_TRIAL,
    (Phase.LOADING, Move.HURRY): Phase.LOADING_TO_SERVE,
    (Phase.LOADING, Move.LEAVE): Phase.LOADING,
    (Phase.LOADING, Move.DROP): Phase.DROPPED,
    (Phase.LOADING_TO_SERVE, Move.WARM): Phase.PROMOTED,
    (Phase.LOADING_TO_SERVE, Move.DROP): Phase.DROPPED,
    (Phase.ON_TRIAL, Move.ADVANCE): Phase.ON_TRIAL,
    (Phase.ON_TRIAL, Move.LEAVE): Phase.ON_TRIAL,
    (Phase.ON_TRIAL, Move.PROMOTE): Phase.PROMOTED,
    (Phase.ON_TRIAL, Move.HURRY): Phase.PROMOTED,
    (Phase.ON_TRIAL, Move.DROP): Phase.DROPPED,
}  # fmt: skip
"""(from, what happens) -> to. A rollout that is promoted or dropped has ended."""
_CHOOSE = (Move.PROMOTE, Move.HURRY, Move.LEAVE)
"""Moves of one version, which has to be named where several are on trial."""


class IllegalMove(ValueError):
    """The state machine has no such move."""


@dataclass(frozen=True, slots=True)
class Arm:
    """A version in an A/B test of several."""

    number: int
    share: int
    """Percent of the keys that it answers."""
    left: bool = False


@dataclass(frozen=True, slots=True)
class Rollout:
    """How a challenger comes, or came, to serve, or the best of several."""

    id: str
    challenger: int
    """Of several the first that has not left, or the one that was promoted."""
    strategy: Strategy
    steps: tuple[int, ...]
    """Percent of the keys that the challenger answers at each step; none if it is not judged."""
    opened_at_ms: int
    """Event time: `as_of` of the run."""
    loop_id: str
    traceparent: str | None
    phase: Phase
    step: int = 0
    """Of several challengers how many have left."""
    generation: int = 0
    """Of the deployment that told of the present step."""
    arms: tuple[Arm, ...] = ()
    """All with which an A/B test of several versions began; none where there is one challenger."""

    @property
    def challengers(self) -> tuple[int, ...]:
        """The versions that are still in it."""
        return tuple(arm.number for arm in self.arms if not arm.left) or (self.challenger,)

    @property
    def is_open(self) -> bool:
        """Whether it has still to end."""
        return self.phase not in (Phase.PROMOTED, Phase.DROPPED)

    @property
    def is_loading(self) -> bool:
        """Whether it waits for serving."""
        return self.phase in (Phase.LOADING, Phase.LOADING_TO_SERVE)

    @property
    def share(self) -> int:
        """Percent of the keys that the challenger answers now, or all challengers together."""
        if self.arms:
            return sum(arm.share for arm in self.arms if not arm.left)
        return self.steps[self.step] if self.steps else 0


@dataclass(frozen=True, slots=True)
class Standing:
    """What is wanted of a model, by version number, and the last rollout."""

    model: str
    generation: int = 0
    champion: int | None = None
    previous: int | None = None
    """The champion before, kept warm for rollback."""
    live: int | None = None
    """The version that serving has said to be its champion; it follows `champion`."""
    rollout: Rollout | None = None
    loop_id: str = ""
    """Of the last change."""
    changed_at_ms: int = 0

    @property
    def trial(self) -> Rollout | None:
        """The rollout, if it is open."""
        return self.rollout if self.rollout is not None and self.rollout.is_open else None

    @property
    def challenger(self) -> int | None:
        """The version on its way to serve; of several the first."""
        return self.trial.challenger if self.trial else None

    @property
    def challengers(self) -> tuple[int, ...]:
        """All versions of which one is on its way to serve."""
        return self.trial.challengers if self.trial else ()

    def begin(
        self, challenger: int, strategy: Strategy, steps: tuple[int, ...], *, opened_at_ms: int,
        loop_id: str, traceparent: str | None, at_ms: int, arms: tuple[Arm, ...] = (),
    ) -> Self:  # fmt: skip
        """Open a rollout of `challenger`; without a champion to be judged against, it will serve once warm.

        `arms` are those of an A/B test of several versions, the challenger first.

        Raises:
            IllegalMove: another rollout is open, or the version is the champion.
        """
        numbers = {challenger, *(arm.number for arm in arms)}
        if self.trial is not None or self.champion in numbers or (arms and self.champion is None):
            raise IllegalMove(f"a rollout of version {challenger} cannot begin in {self}")
        judged = self.champion is not None and strategy != "immediate"
        generation = self.generation + 1
        rollout = Rollout(
            id=f"{self.model}/{challenger}/{generation}",
            challenger=challenger,
            strategy=strategy if judged else "immediate",
            steps=((0,) if strategy == "shadow" else steps) if judged else (),
            opened_at_ms=opened_at_ms,
            loop_id=loop_id,
            traceparent=traceparent,
            phase=Phase.LOADING if judged else Phase.LOADING_TO_SERVE,
            generation=generation,
            arms=arms,
        )
        return replace(self, generation=generation, rollout=rollout, loop_id=loop_id, changed_at_ms=at_ms)

    def move(self, move: Move, at_ms: int, number: int | None = None) -> Self:
        """Make a move of the open rollout; of several challengers `number` says which one is promoted, or leaves.

        Raises:
            IllegalMove: none is open, `MOVES` does not have it, or the version is not in it.
        """
        rollout = self.trial
        if rollout is None or (rollout.phase, move) not in MOVES:
            raise IllegalMove(f"{move} does not follow {rollout.phase if rollout else 'no rollout'}")
        which = number or (None if rollout.arms and move in _CHOOSE else rollout.challenger)
        if which not in rollout.challengers:
            raise IllegalMove(f"version {which} is not in rollout {rollout.id}")
        phase = MOVES[rollout.phase, move]
        if phase is Phase.ON_TRIAL and move is Move.WARM:
            # Serving was told of the share when it was told to load: nothing new to tell.
            return replace(self, rollout=replace(rollout, phase=phase))
        generation = self.generation + 1
        if move is Move.ADVANCE:
            if rollout.step + 1 >= len(rollout.steps):
                raise IllegalMove(f"step {rollout.step} is the last of rollout {rollout.id}")
            rollout = replace(rollout, step=rollout.step + 1, generation=generation)
        if move is Move.LEAVE:
            rollout = _without(rollout, which, generation)
        elif move in _CHOOSE:
            rollout = replace(rollout, challenger=which)
        if phase is Phase.LOADING_TO_SERVE:
            rollout = replace(rollout, strategy="immediate", steps=(), arms=(), generation=generation)
        changed = replace(
            self, generation=generation, rollout=replace(rollout, phase=phase),
            loop_id=rollout.loop_id, changed_at_ms=at_ms,
        )  # fmt: skip
        if phase is not Phase.PROMOTED:
            return changed
        return replace(changed, champion=rollout.challenger, previous=self.champion)

    def restore(self, at_ms: int) -> Self:
        """Make the previous champion the champion again; the one that it replaces is not kept.

        Raises:
            IllegalMove: there is no previous champion, or a rollout is open.
        """
        if self.previous is None or self.trial is not None:
            raise IllegalMove(f"nothing can be restored in {self}")
        return replace(
            self, generation=self.generation + 1, champion=self.previous, previous=None, changed_at_ms=at_ms
        )

    def withdraw(self, at_ms: int) -> Self:
        """Take the model out of service: nothing is wanted of it until another version comes.

        Raises:
            IllegalMove: a rollout is open.
        """
        if self.trial is not None:
            raise IllegalMove(f"a model is not withdrawn while a rollout is open: {self}")
        return replace(
            self, generation=self.generation + 1, champion=None, previous=None, live=None, changed_at_ms=at_ms
        )

    def confirm(self) -> Self:
        """Take in that serving has swapped to the champion."""
        return replace(self, live=self.champion)

    def is_at(self, rollout_id: str, step: int, generation: int) -> bool:
        """Whether the open trial stands exactly where a verdict says: the compare of its compare-and-set."""
        trial = self.trial
        return (
            trial is not None
            and trial.phase is Phase.ON_TRIAL
            and (trial.id, trial.step, trial.generation) == (rollout_id, step, generation)
        )


def _without(rollout: Rollout, number: int, generation: int) -> Rollout:
    """Return a rollout that one of several challengers has left."""
    rest = [each for each in rollout.challengers if each != number]
    if not rest:
        raise IllegalMove(f"version {number} is the last in rollout {rollout.id}")
    arms = tuple(replace(arm, left=arm.left or arm.number == number) for arm in rollout.arms)
    return replace(rollout, challenger=rest[0], arms=arms, step=rollout.step + 1, generation=generation)
