"""One strategy, lived through history in lockstep, as the replay lives it through a running Trimtab.

One step of event time at a time: its rows are answered, then what both watermarks have
passed is closed, and what follows from that (a run, its gates, a rollout's verdict) is
done before the next step begins. A run is charged no event time: its candidate answers
from the step after the one in which it was ordered. Each decision is core's, asked in
the order in which monitoring and the registry ask it.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Final

import msgspec
import numpy as np
from numpy.typing import NDArray
from trimtab_core import accepted, detection, gating, losses, occasions, policy, quality, trial, windows
from trimtab_core.accepted import Word
from trimtab_core.occasions import Since
from trimtab_core.policy import Decision, DriftSignal, PolicySpec, PolicyState
from trimtab_core.specs import Model
from trimtab_core.watched import Drift, Due, Row, Standing, Verdict, Watch
from trimtab_core.windows import Partial, Window
from trimtab_training.errors import RunFailed

from trimtab.backtest.workbench import Candidate, Workbench

Floats = NDArray[np.float64]
DueAt = Callable[[Watch, int], Sequence[Due]]
"""What is due between what is closed and a time, beside what the spec says."""
OnTime = Callable[[int, float], object]


def nothing_due(_: Watch, __: int) -> Sequence[Due]:
    """Return that nothing is due beside what the spec says."""
    return ()


@dataclass(frozen=True, slots=True)
class Watching:
    """Who hears how far a backtest is."""

    on_rows: Callable[[str, int], object] = lambda _, __: None
    """That so many more rows of a source were read."""
    on_fit: Callable[[str], object] = lambda _: None
    """That a fit of a strategy's was made; of none, if it was the first version's."""
    on_time: Callable[[str, int, float], object] = lambda _, __, ___: None
    """How far a strategy is, as a time and as a share of the rows."""


NOBODY: Final = Watching()


@dataclass(frozen=True, slots=True)
class Strategy:
    """When a model is retrained."""

    name: str
    model: Model
    """With the retraining that the strategy means."""
    policy: PolicySpec
    watches: bool = False
    """Whether drift is looked for."""
    due: DueAt = nothing_due
    quick: bool = False
    """Whether its candidates are judged by one fit each."""


@dataclass(slots=True)
class Retrain:
    """A run that was ordered, and what came of it."""

    command_id: str
    trigger: str
    as_of_ms: int
    reason: str
    outcome: str = "open"
    """refused, failed, live, rolled_back, or open where history ends before that is known."""
    sentence: str = ""
    version: int = 0
    seconds: float = 0.0
    rows: int = 0
    """That were fitted to."""
    settled_ms: int | None = None
    verdict: Verdict | None = None
    """That ended its rollout, if it had one."""


@dataclass(slots=True)
class Alarm:
    """An episode of drift, and what was made of it."""

    drift: Drift
    said: str = ""
    """What the policy said first."""
    cause: str = ""
    """Why it said so."""
    commands: list[str] = field(default_factory=list)


@dataclass(slots=True)
class Life:
    """What came of a strategy."""

    strategy: Strategy
    losses: Floats
    """Of each row of history, clipped; NaN where it was not answered, or has no label."""
    retrains: list[Retrain] = field(default_factory=list)
    alarms: list[Alarm] = field(default_factory=list)
    promotions: list[tuple[int, int]] = field(default_factory=list)
    """When a version came to answer, and which."""


@dataclass(frozen=True, slots=True)
class _Stretch:
    """Rows [start, stop) of history that were answered under one standing."""

    start: int
    stop: int
    standing: Standing


def live(
    bench: Workbench, strategies: Sequence[Strategy], from_ms: int, step_ms: int, watching: Watching
) -> dict[str, Life]:
    """Live strategies one after the other, by name, from the version that is made as of `from_ms` on."""
    lives = {}
    with bench.on_one_thread():
        first = bench.candidate(from_ms, None)
        assert isinstance(first, Candidate)
        for each in strategies:
            bench.on_fit = partial(watching.on_fit, each.name)
            lives[each.name] = Living(bench, each, first, step_ms=step_ms).live(
                from_ms, partial(watching.on_time, each.name)
            )
    return lives


class Living:
    """Lives one strategy."""

    def __init__(self, bench: Workbench, strategy: Strategy, first: Candidate, *, step_ms: int) -> None:
        """`first` is the version that answers at the beginning."""
        self._bench, self._strategy, self._step_ms = bench, strategy, step_ms
        self._spec, self._name = strategy.model.spec, strategy.model.name
        self._history = bench.history
        self._versions: dict[int, Candidate] = {1: first}
        self._standing = Standing(self._name, generation=2, champion=1)
        self._stretches: list[_Stretch] = []
        self._watch, self._partial = Watch(), Partial()
        self._policy = PolicyState()
        self._ordered: list[tuple[Retrain, int | None]] = []
        self._trying: Retrain | None = None
        self._open: dict[str, Alarm] = {}
        self._answered: set[str] = set()
        self._first = self._closed = 0
        self.life = Life(strategy, np.full(len(bench.history), np.nan))

    def live(self, from_ms: int, on_time: OnTime) -> Life:
        """Live from a time to the end of history; `on_time` hears how far it is, as a time and as a share of the rows."""
        at_ms = self._history.at_ms
        start = int(np.searchsorted(at_ms, from_ms, side="left"))
        self._first = self._closed = start
        steps = (at_ms[start:] - from_ms) // self._step_ms
        before = 0
        for first, stop in _runs(steps):
            step = int(steps[first])
            if step > before + 1 and self._stretches:  # steps in which nobody asked
                self._close(from_ms + step * self._step_ms)
            before = step
            self._answer(start + first, start + stop)
            self._close(from_ms + (step + 1) * self._step_ms)
            on_time(int(at_ms[start + stop - 1]), stop / len(steps))
        return self.life

    def _answer(self, start: int, stop: int) -> None:
        """Answer rows as things stand, and keep what each answer costs."""
        standing = self._standing
        last = self._stretches[-1] if self._stretches else None
        if last is not None and last.standing == standing:
            self._stretches[-1] = replace(last, stop=stop)
        else:
            self._stretches.append(_Stretch(start, stop, standing))
        mine = self._losses(standing.champion, start, stop)
        share = standing.steps[standing.step] / 100 if standing.steps else 0.0
        if share:
            mine = (1 - share) * mine + share * self._losses(standing.challenger, start, stop)
        self.life.losses[start:stop] = mine

    def _losses(self, version: int, start: int, stop: int) -> Floats:
        """Return the clipped loss of what a version says of rows, NaN without a label."""
        label = self._history.label[start:stop]
        known = ~np.isnan(label)
        found = np.full(stop - start, np.nan)
        said = self._versions[version].answers(start, stop)
        found[known] = losses.clip(
            losses.loss(self._spec.judged_by, label[known], said[known]), self._spec.cap
        )
        return found

    def _close(self, end_ms: int) -> None:
        """Close what a watermark at the end of a step has passed, and see to all that follows."""
        asked_ms = int(self._history.at_ms[self._stretches[-1].stop - 1])
        until = min(asked_ms, end_ms - self._spec.label.within)
        if until <= self._watch.closed_ms:
            return
        stop = min(int(np.searchsorted(self._history.at_ms, until, side="right")), self._stretches[-1].stop)
        fresh = self._take(self._closed, stop, until)
        self._closed = stop
        for alarm in fresh:
            self._first_answer(alarm)
        for retrain, changed_ms in self._ordered:
            self._run(retrain, changed_ms)
        self._ordered.clear()
        self._judge_trial()

    def _take(self, start: int, stop: int, until: int) -> list[Alarm]:
        """Take in closed rows, window by window, and return the alarms that they raise."""
        before, spec = self._watch, self._spec
        needed = self._strategy.watches or spec.retrain.new_rows is not None
        on_trial = self._on_trial(start, stop)
        rows = self._rows(start, stop) if needed else self._rows(*on_trial)
        lost = windows.champion_losses(spec, rows)
        watch, full, words = before, list[Window](), list[Word]()
        if self._strategy.watches:
            settings = self._bench.settings
            acceptance, words = accepted.take(self._strategy.model, settings, before.acceptance, rows, lost)
            watch, self._partial, full = windows.fill(
                before, self._partial, rows, lost, settings.full, settings.look,
                every_ms=settings.every_ms, closed_ms=until,
            )  # fmt: skip
            watch = replace(watch, acceptance=acceptance)
        elif rows:
            watch = replace(before, version=rows[-1].version, generation=rows[-1].generation)
        since = [self._since(*each) for each in occasions.stretches(before, rows)] if rows else []
        count, due = occasions.counted(self._strategy.model, before, rows, since)
        due = [
            *due,
            *occasions.scheduled(self._strategy.model, before, until),
            *self._strategy.due(before, until),
        ]
        self._watch = replace(
            watch.judging(trial.take(before.trials, rows, lost, spec)), closed_ms=until, fresh=count
        )
        fresh: list[Alarm] = []
        for each in occasions.among(full, [*due, *words]):
            if isinstance(each, Due):
                self._due(each)
            elif isinstance(each, Word):
                fresh += self._hear(each)
            else:
                fresh += self._judge(each)
        return fresh

    def _on_trial(self, start: int, stop: int) -> tuple[int, int]:
        """Return the span of the rows of [start, stop) that two versions answered."""
        found = [
            (max(start, each.start), min(stop, each.stop))
            for each in self._stretches
            if each.standing.rollout_id and each.start < stop and each.stop > start
        ]
        return (found[0][0], found[-1][1]) if found else (stop, stop)

    def _rows(self, start: int, stop: int) -> list[Row]:
        """Return rows as monitoring reads them, in order."""
        found: list[Row] = []
        while self._stretches and self._stretches[0].stop <= start and len(self._stretches) > 1:
            self._stretches.pop(0)
        for each in self._stretches:
            first, last = max(start, each.start), min(stop, each.stop)
            if first < last:
                found += self._answered_rows(first, last, each.standing)
        return found

    def _answered_rows(self, start: int, stop: int, standing: Standing) -> Iterator[Row]:
        history, span = self._history, range(start, stop)
        features = np.ascontiguousarray(history.numbers[start:stop], np.float64)
        blob, width = features.tobytes(), features.shape[1] * 8
        words = (
            [msgspec.json.encode(each) for each in history.words[start:stop].tolist()]
            if history.texts
            else [None] * len(span)
        )
        champion, chances = _said(self._versions[standing.champion].answers(start, stop))
        challenger: Sequence[float | None] = [None] * len(span)
        other: Sequence[bytes | None] = challenger  # type: ignore[assignment]
        if standing.challenger:
            challenger, other = _said(self._versions[standing.challenger].answers(start, stop))
        label = [None if value != value else value for value in history.label[start:stop].tolist()]
        return (
            Row(
                at, f"{place:012}", standing.champion, standing.generation, standing.challenger, standing.rollout_id,
                mine, theirs, blob[number * width : (number + 1) * width], truth, my_chances, their_chances, words[number],
            )
            for number, (place, at, mine, theirs, truth, my_chances, their_chances) in enumerate(
                zip(span, history.at_ms[start:stop].tolist(), champion, challenger, label, chances, other, strict=True)
            )
        )  # fmt: skip

    def _since(self, version: int, before_ms: int) -> Since:
        """Return what is known of a version when its first row, of a time, is closed."""
        if version not in self._versions:
            return Since(None)
        trained_to = self._versions[version].trained_to_ms
        first, stop = np.searchsorted(self._history.at_ms, [trained_to + 1, before_ms], side="left")
        label = self._history.label[max(int(first), self._first) : int(stop)]
        return Since(trained_to, int(np.count_nonzero(~np.isnan(label))))

    def _judge(self, window: Window) -> list[Alarm]:
        """Judge a full window: return the alarms that it raises, and let the policy look again at episodes that go on."""
        settings = self._bench.settings.of_rows(len(window.rows))
        own = quality.of_version(self._watch.faults, window.version)
        self._watch = replace(self._watch, faults=own)
        calibration = self._versions[window.version].calibration(self._spec, settings)
        if calibration is None:
            return []
        settings, stated = self._bench.settings, self._bench.stated
        judged = detection.judge(
            self._name, window, self._history.carries, calibration, settings, self._watch.episodes, stated
        )
        faults = judged.faults(self._watch.faults, stated, settings.rule.k)
        self._watch = replace(self._watch, episodes=judged.episodes, faults=faults)
        fault = quality.blocking(faults)
        fresh, severities = [], detection.severities(judged, calibration)
        for alarm, finding in judged.alarms:
            drift = detection.drift(
                judged, alarm, finding, calibration, self._history.carries, report="", recorded_ms=0
            )
            drift = replace(drift, fault=fault)
            fresh.append(self._open.setdefault(drift.episode, Alarm(drift)))
        self.life.alarms += fresh
        for kind in judged.kinds:
            episode = judged.episodes[kind].episode
            if episode in self._answered and kind in self._spec.retrain.on:
                self._look_again(self._open[episode], window.end[0], severities.get(kind))
        if self._watch.put_off is not None and not fault:
            self._due(replace(self._watch.put_off, at_ms=window.end[0]))
        return fresh

    def _hear(self, word: Word) -> list[Alarm]:
        """Do what a word about the accepted level calls for, and return the alarm that it raises, if any."""
        held, fresh = self._watch.acceptance, list[Alarm]()
        if held is not None and word.what == "exceeded":
            fault = quality.blocking(self._watch.faults)
            drift = accepted.drift(self._name, held, word, fault=fault, report="", recorded_ms=0)
            fresh = [self._open.setdefault(drift.episode, Alarm(drift))]
            self.life.alarms += fresh
        asked_again = word.episode in self._answered and "performance" in self._spec.retrain.on
        if held is not None and word.what == "goes on" and asked_again:
            self._look_again(self._open[word.episode], word.at_ms, accepted.severity(held, word))
        return fresh

    def _first_answer(self, alarm: Alarm) -> None:
        drift = alarm.drift
        signal = drift.signal(drift.at_ms, drift.fault)
        decision = policy.decide(self._strategy.policy, self._policy, signal)
        self._answered.add(drift.episode)
        alarm.said, alarm.cause = decision.reason, decision.cause
        self._follow(decision, signal, drift.at_ms, alarm)

    def _look_again(self, alarm: Alarm, now_ms: int, severity: float | None) -> None:
        signal = alarm.drift.signal(now_ms, quality.blocking(self._watch.faults), severity)
        decision = policy.reconsider(self._strategy.policy, self._policy, signal)
        if decision.action == "decline" and decision.cause != alarm.cause and not alarm.commands:
            alarm.said, alarm.cause = decision.reason, decision.cause
        self._follow(decision, signal, now_ms, alarm)

    def _due(self, due: Due) -> None:
        signal = due.signal(self._name, quality.blocking(self._watch.faults))
        decision = policy.decide(self._strategy.policy, self._policy, signal)
        self._watch = replace(self._watch, put_off=due if decision.cause == "quality" else None)
        self._follow(decision, signal, due.at_ms)

    def _follow(
        self, decision: Decision, signal: DriftSignal, as_of_ms: int, alarm: Alarm | None = None
    ) -> None:
        """Order the run that a decision calls for, if it calls for one."""
        if decision.action != "retrain":
            return
        assert decision.command_id is not None
        self._policy = decision.state
        retrain = Retrain(decision.command_id, signal.kind, as_of_ms, decision.reason)
        self.life.retrains.append(retrain)
        if alarm is not None:
            alarm.commands.append(retrain.command_id)
        self._ordered.append((retrain, alarm.drift.changed_ms if alarm else None))

    def _run(self, retrain: Retrain, changed_ms: int | None) -> None:
        """Make the candidate that was ordered, hold it to its gates, and begin its rollout."""
        found = self._bench.candidate(retrain.as_of_ms, changed_ms, quick=self._strategy.quick)
        if isinstance(found, RunFailed):
            self._end(retrain, "failed", str(found), retrain.as_of_ms)
            return
        standing = self._standing
        number = max(self._versions) + 1
        retrain.version, retrain.seconds, retrain.rows = number, found.seconds, len(found.shipped.fitted_to)
        self._versions[number] = found
        refused = gating.failed(
            self._bench.gates(found, self._versions[standing.champion], standing.champion)
        )
        if refused:
            self._end(retrain, "refused", refused[0].sentence, retrain.as_of_ms)
        elif self._spec.rollout.strategy == "immediate":
            self._promote(number)
            self._end(retrain, "live", "", retrain.as_of_ms)
        else:
            generation = standing.generation + 1
            shadow = self._spec.rollout.strategy == "shadow"
            self._trying = retrain
            self._standing = replace(
                standing, generation=generation, challenger=number, step=0,
                rollout_id=f"{self._name}/{number}/{generation}",
                steps=(0,) if shadow else self._spec.rollout.ladder,
            )  # fmt: skip

    def _judge_trial(self) -> None:
        """Do what the judge says of the step at which the rollout stands, as long as it says something new."""
        while self._trying is not None and self._watch.trial is not None:
            found = trial.verdict(
                self._name, self._watch.trials, self._standing, self._spec.judged_by,
                closed_ms=self._watch.closed_ms, recorded_ms=0,
            )  # fmt: skip
            if found is None:
                return
            said = replace(self._watch.trial, said_at_step=self._standing.step)
            self._watch = replace(self._watch, trial=said)
            if found.outcome == "ADVANCE":
                step, generation = self._standing.step + 1, self._standing.generation + 1
                self._standing = replace(self._standing, step=step, generation=generation)
                continue
            won, self._trying.verdict = found.outcome == "PROMOTE", found
            if won:
                self._promote(self._standing.challenger)
            else:
                self._stand(self._standing.champion)
            self._end(self._trying, "live" if won else "rolled_back", found.sentence, found.at_ms)

    def _promote(self, number: int) -> None:
        self._stand(number)
        self.life.promotions.append((int(self._history.at_ms[self._stretches[-1].stop - 1]), number))

    def _stand(self, champion: int) -> None:
        """Let one version answer alone."""
        self._standing = Standing(self._name, self._standing.generation + 1, champion)

    def _end(self, retrain: Retrain, outcome: str, sentence: str, at_ms: int) -> None:
        """Write down how a loop ended, and let the policy know."""
        retrain.outcome, retrain.sentence, retrain.settled_ms = outcome, sentence, at_ms
        self._trying = None
        self._policy = policy.outcome(self._policy, outcome == "live", at_ms / 1000, retrain.command_id)


def _runs(steps: NDArray[np.int64]) -> Iterator[tuple[int, int]]:
    """Yield where each run of equal steps begins and ends."""
    if not len(steps):
        return
    starts = np.flatnonzero(np.concatenate([[True], steps[1:] != steps[:-1]]))
    yield from zip(starts.tolist(), [*starts[1:].tolist(), len(steps)], strict=True)


def _said(answers: Floats) -> tuple[list[float], Sequence[bytes | None]]:
    """Return answers as a prediction a row, and of classes their chances as bytes."""
    if answers.ndim == 1:
        return answers.tolist(), [None] * len(answers)
    width = answers.shape[1] * 8
    blob = np.ascontiguousarray(answers).tobytes()
    chances = [blob[at : at + width] for at in range(0, len(blob), width)]
    return losses.said_class(answers).tolist(), chances
