"""Whether drift, or what is due without it, is answered with a retrain command.

One episode gives one command, however often, late or out of order its event is
heard: a second attempt is made by `reconsider` alone, and only after the first
has come back without help. A dry run gives none, and leaves behind nothing that a
command later would have to wait for. All times are seconds of event time.
"""

from dataclasses import dataclass, field, replace
from typing import Literal, Self, get_args

from trimtab_core.episodes import DriftKind
from trimtab_core.naming import id_of
from trimtab_core.specs import RetrainSpec

DueKind = Literal["schedule", "new_rows"]
Trigger = DriftKind | DueKind
Cause = Literal["called", "kind", "quality", "duplicate", "in_flight", "cooldown", "budget"]

_REMEMBERED = 1_000
"""Answered episodes that are kept; an older event is behind the last command, so the cooldown declines it."""
_MOST_DOUBLINGS = 3
_WORSE = 2.0
"""Drift that many times as severe as what a retrain did not help is another change than that."""


@dataclass(frozen=True, slots=True)
class PolicySpec:
    """What the owner of a model allows."""

    on: tuple[DriftKind, ...] = ("data", "performance")
    cooldown_s: float = 7 * 86_400.0
    """Least time between two commands; doubled, thrice at most, by each retrain in a row that drift of the kind called for and that did not help."""
    at_most: tuple[int, float] = (4, 60 * 86_400.0)
    """So many commands in so many seconds."""
    severe: float | None = None
    """From this severity on drift does not wait for the cooldown, unless a retrain that the like of it called for did not help."""
    dry_run: bool = False
    """Whether it is only said what would have been ordered."""

    @classmethod
    def of(cls, spec: RetrainSpec) -> Self:
        """Return what a model's spec states."""
        at_most = spec.at_most.count, spec.at_most.per_ms / 1000
        return cls(spec.on, spec.cooldown / 1000, at_most, spec.severe, spec.dry_run)


@dataclass(frozen=True, slots=True)
class DriftSignal:
    """A drift event, or what is due without drift, as the policy reads it; its episode is then the occasion."""

    model: str
    episode: str
    kind: Trigger
    at: float
    severity: float = 0.0
    """How many times what is usual at most; 1 is the edge of it."""
    quality_fault: str = ""
    """What is bad of the data, in a sentence, if it is bad rather than changed."""
    summary: str = ""
    """What calls for the retrain, where it is no drift."""
    scale: str = ""
    """What its severity is measured against, where that is not what is usual."""

    @property
    def sort(self) -> str:
        """Which signals are of its sort: severities of two sorts say nothing of each other."""
        return f"{self.kind} {self.scale}".strip()


@dataclass(frozen=True, slots=True)
class Futile:
    """Retrains in a row that a sort of drift called for and that did not help."""

    times: int
    severity: float
    """The greatest that called for one of them; 0 if that is not known."""


@dataclass(frozen=True, slots=True)
class Answer:
    """A command that was given for an episode, and what came of it."""

    episode: str
    attempt: int
    command_id: str
    helped: bool | None = None
    """None while its loop runs."""
    kind: Trigger = "data"
    severity: float = 0.0
    sort: str = ""
    """Of its signal; empty in what was kept before it was told: the kind."""
    forgiven: dict[str, Futile] = field(default_factory=dict)
    """What it put an end to by helping; it stands again if this turns out not to have helped."""


@dataclass(frozen=True, slots=True)
class Rehearsed:
    """What a dry run would have ordered; it is taken to have helped at once."""

    episode: str
    at: float


@dataclass(frozen=True, slots=True)
class PolicyState:
    """What is remembered between the signals of one model."""

    last_command_at: float | None = None
    commands: tuple[float, ...] = ()
    """When the commands within the budget's time were given."""
    in_flight: str | None = None
    """The command whose loop has not ended."""
    last_outcome_at: float | None = None
    answers: tuple[Answer, ...] = ()
    """The last answer to each episode, oldest first."""
    rehearsed: tuple[Rehearsed, ...] = ()
    """By dry runs since the last command, oldest first; nothing but another dry run reads it."""
    futile: dict[str, Futile] = field(default_factory=dict)
    """Since one helped, by sort of drift."""

    @property
    def failures(self) -> int:
        """Retrains in a row that drift called for and that did not help."""
        return sum(each.times for each in self.futile.values())


@dataclass(frozen=True, slots=True)
class Decision:
    """What the policy answers; `state` is to be kept in the transaction that sends the command."""

    action: Literal["retrain", "decline", "rehearse"]
    """`rehearse` is what a dry run does in the place of `retrain`: the state is to be kept, and no command to be given."""
    command_id: str | None
    """The command to give, or that a dry run would have given, or for a duplicate the one already given."""
    attempt: int
    cause: Cause
    reason: str
    state: PolicyState
    retry_at: float | None = None
    """For `cooldown` and `budget`: from when on `reconsider` would not decline for it."""


def command_id(episode: str, attempt: int) -> str:
    """Return the id of the `attempt`-th command, counted from 1, for an episode."""
    return id_of(episode, attempt)


def decide(spec: PolicySpec, state: PolicyState, signal: DriftSignal) -> Decision:
    """Answer a drift event; an episode that has had a command is a duplicate for ever."""
    return _decide(spec, state, signal, may_try_again=False)


def reconsider(spec: PolicySpec, state: PolicyState, signal: DriftSignal) -> Decision:
    """Answer again for an episode that is still open; `signal.at` is now.

    An episode declined so far gets its first attempt as soon as nothing stands in its way; one whose command has
    finished without help gets the next attempt; one whose command runs or has helped stays answered.
    """
    return _decide(spec, state, signal, may_try_again=True)


def outcome(state: PolicyState, helped: bool | None, at: float, command: str | None = None) -> PolicyState:
    """Take in the end of the loop in flight; a repeated or foreign outcome changes nothing.

    But that a retrain did not help may be found after it was taken to have: its version was taken back, or loses more than the one
    before. It counts then as if it had never helped, once.
    What was due without drift may come to nothing without fault: in a quiet world no candidate is better, and to back off then
    would be to rest when the world changes.
    `helped` is None if it was cancelled, which says nothing of retraining: an episode that goes on may have another
    attempt, and the back-off stays as it is. Cooldown and budget are spent all the same.
    `command` names the loop that ended; without it, the one in flight is meant.
    """
    if state.in_flight is None or command not in (None, state.in_flight):
        return state if helped is not False else _undone(state, command)
    given = next((answer for answer in state.answers if answer.command_id == state.in_flight), None)
    forgiven = state.futile if helped else {}
    ended = _marked(state, state.in_flight, helped=bool(helped), forgiven=forgiven)
    ended = replace(ended, in_flight=None, last_outcome_at=at)
    if helped:
        return replace(ended, futile={})
    if helped is None or given is None:
        return ended
    return replace(ended, futile=_in_vain(state.futile, given))


def _undone(state: PolicyState, command: str | None) -> PolicyState:
    """Return the state as if the retrain of `command`, which was taken to have helped, had not."""
    helped = [answer for answer in state.answers if answer.helped]
    at = next((at for at, answer in enumerate(helped) if answer.command_id == command), None)
    if at is None:
        return state
    stands = _in_vain(helped[at].forgiven, helped[at])
    state = _marked(state, helped[at].command_id, helped=False, forgiven={})
    if at + 1 == len(helped):
        return replace(state, futile=_summed(stands, state.futile))
    later = helped[at + 1]  # which ends what was in a row, unless it did not help either
    return _marked(state, later.command_id, helped=True, forgiven=_summed(stands, later.forgiven))


def _marked(state: PolicyState, command: str, *, helped: bool, forgiven: dict[str, Futile]) -> PolicyState:
    answers = (
        replace(answer, helped=helped, forgiven=forgiven) if answer.command_id == command else answer
        for answer in state.answers
    )
    return replace(state, answers=tuple(answers))


def _in_vain(futile: dict[str, Futile], given: Answer) -> dict[str, Futile]:
    """Count a retrain that did not help, if drift called for it."""
    if given.kind in get_args(DueKind):
        return futile
    return _summed(futile, {given.sort or given.kind: Futile(1, given.severity)})


def _summed(first: dict[str, Futile], then: dict[str, Futile]) -> dict[str, Futile]:
    """Return what did not help in a row, then after first."""
    found = dict(first)
    for sort, since in then.items():
        before = found.get(sort, Futile(0, 0.0))
        found[sort] = Futile(before.times + since.times, max(before.severity, since.severity))
    return found


def _decide(spec: PolicySpec, state: PolicyState, signal: DriftSignal, *, may_try_again: bool) -> Decision:
    if not spec.dry_run:
        return _answer(spec, state, signal, may_try_again=may_try_again)
    decision = _answer(spec, _as_if_ordered(state), signal, may_try_again=may_try_again)
    if decision.action == "decline":
        return replace(decision, state=state)
    return replace(
        decision,
        action="rehearse",
        reason=f"Dry run, or a retrain would have been ordered: {decision.reason}",
        state=replace(
            state, rehearsed=(*state.rehearsed, Rehearsed(signal.episode, signal.at))[-_REMEMBERED:]
        ),
    )


def _as_if_ordered(state: PolicyState) -> PolicyState:
    """Return the state as it were if what was rehearsed had been ordered, and had helped."""
    if not state.rehearsed:
        return state
    times = [each.at for each in state.rehearsed]
    return replace(
        state,
        last_command_at=max(times if state.last_command_at is None else [state.last_command_at, *times]),
        commands=(*state.commands, *times),
        futile={},
        answers=(*(Answer(each.episode, 1, "", helped=True) for each in state.rehearsed), *state.answers),
    )


def _answer(spec: PolicySpec, state: PolicyState, signal: DriftSignal, *, may_try_again: bool) -> Decision:
    given = next((answer for answer in state.answers if answer.episode == signal.episode), None)
    attempt = 1 if given is None else given.attempt

    known = (given.command_id or None) if given is not None else None

    def decline(cause: Cause, reason: str, retry_at: float | None = None) -> Decision:
        return Decision("decline", known, attempt, cause, reason, state, retry_at)

    if signal.kind not in (*spec.on, *get_args(DueKind)):
        return decline(
            "kind",
            f"{signal.kind} drift does not call for a retrain of {signal.model}: {_listed(spec.on)} does.",
        )
    if signal.quality_fault:
        return decline(
            "quality",
            f"The data of {signal.model} is faulty, and a model trained on it would be too: {signal.quality_fault}",
        )
    if given is not None:
        if given.helped is not False or not may_try_again:
            had = f"has command {given.command_id} (attempt {attempt})" if known else "had its dry run"
            return decline("duplicate", f"This episode already {had}.")
        attempt += 1
    if state.in_flight is not None:
        return decline("in_flight", f"A retrain of {signal.model} is in flight (command {state.in_flight}).")
    hurried = False
    if state.last_command_at is not None:
        failures = _failures(state, signal)
        ready = state.last_command_at + spec.cooldown_s * 2 ** min(failures, _MOST_DOUBLINGS)
        is_severe = spec.severe is not None and signal.severity >= spec.severe
        hurried = state.last_command_at <= signal.at < ready and is_severe and not failures
        if signal.at < ready and not hurried:
            helpless = f" after {failures} without help" if failures else ""
            return decline(
                "cooldown",
                f"The cooldown of {signal.model}{helpless} lasts {_days(ready - signal.at)} more.",
                ready,
            )
    count, per_s = spec.at_most
    spent = tuple(at for at in state.commands if at > signal.at - per_s)
    if len(spent) >= count:
        free_at = sorted(spent)[len(spent) - count] + per_s if count else None
        return decline(
            "budget", f"The budget of {signal.model}, {count} in {_days(per_s)}, is spent.", free_at
        )
    return _command(state, signal, attempt, spent, hurried=hurried)


def _failures(state: PolicyState, signal: DriftSignal) -> int:
    """Return how many retrains that did not help speak against another for this.

    Those that drift of its kind called for do, unless it is far more severe; against what is due without drift all of them.
    """
    if signal.kind in get_args(DueKind):
        return state.failures
    futile = state.futile.get(signal.sort)
    if futile is None or signal.severity >= _WORSE * futile.severity > 0:
        return 0
    return futile.times


def _command(
    state: PolicyState, signal: DriftSignal, attempt: int, spent: tuple[float, ...], *, hurried: bool
) -> Decision:
    command = command_id(signal.episode, attempt)
    others = [answer for answer in state.answers if answer.episode != signal.episode]
    given = Answer(
        signal.episode, attempt, command, kind=signal.kind, severity=signal.severity, sort=signal.sort
    )
    answers = (*others, given)[-_REMEMBERED:]
    after = replace(
        state,
        last_command_at=signal.at,
        commands=(*spent, signal.at),
        in_flight=command,
        answers=answers,
        rehearsed=(),
    )
    again = f", attempt {attempt}," if attempt > 1 else ""
    called = signal.summary or f"{signal.kind.capitalize()} drift of severity {signal.severity:.2f}"
    at_once = " is severe, does not wait for the cooldown, and" if hurried else ""
    reason = f"{called}{again}{at_once} calls for a retrain of {signal.model}."
    return Decision("retrain", command, attempt, "called", reason, after)


def _listed(kinds: tuple[DriftKind, ...]) -> str:
    return " or ".join(kinds) or "none"


def _days(seconds: float) -> str:
    return f"{seconds / 86_400:.1f} days" if seconds >= 86_400 else f"{seconds / 3_600:.1f} hours"
