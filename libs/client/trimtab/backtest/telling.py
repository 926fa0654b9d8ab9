"""What a backtest says: as data, as rows of a table, and as a page with its charts."""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any, Final

import numpy as np
import yaml
from trimtab_core import specs
from trimtab_core.durations import format_duration
from trimtab_core.losses import aggregate
from trimtab_core.timestamps import iso

from trimtab.backtest.living import Alarm, Life, Retrain
from trimtab.backtest.strategies import Backtest
from trimtab.pages import Block, Bullets, Heading, Items, Page, Picture, Table, Text
from trimtab.svg import COLOURS, Dots, Line, Mark, plot

_PERIODS: Final = 40
_LEAST: Final = 20
"""Rows that a point of a chart stands for at least."""
_MOST_REFUSALS: Final = 5
_CAUSES: Final[Mapping[str, str]] = {
    "kind": "of a kind that `retrain.on` leaves out",
    "quality": "for the data was faulty",
    "in_flight": "while another was in flight",
    "cooldown": "within the cooldown, which each retrain for drift that does not help doubles",
    "budget": "for the budget was spent",
}


def document(found: Backtest) -> dict[str, Any]:
    """Return it as `--json` prints it."""
    return {
        "rows": len(found.history),
        "strategies": {
            name: {
                "metric": found.metric,
                "value": found.value(name),
                "retrains": len(life.retrains),
                "refused": _count(life, "refused"),
            }
            for name, life in found.lives.items()
        },
        "alarms": [_alarm(found, each, life) for life in _watched(found) for each in life.alarms],
    }


def rows(found: Backtest) -> list[dict[str, Any]]:
    """Return a row for each strategy."""
    first = found.value("never") if "never" in found.lives else None
    others = {
        name: len(life.retrains) - _count(life, "live") - _count(life, "refused")
        for name, life in found.lives.items()
    }
    return [
        {
            "strategy": name,
            found.metric: f"{found.value(name):.4g}",
            "vs never": _beside(found.value(name), first) if name != "never" else "",
            "retrains": len(life.retrains),
            "live": _count(life, "live"),
            "refused": _count(life, "refused"),
            **({"other": others[name]} if any(others.values()) else {}),
            "cpu s": f"{sum(each.seconds for each in life.retrains):.1f}",
        }
        for name, life in found.lives.items()
    ]


def alarms(found: Backtest) -> list[dict[str, Any]]:
    """Return a row for each alarm."""
    return [_alarm_row(found, each, life) for life in _watched(found) for each in life.alarms]


def sentences(found: Backtest) -> list[str]:
    """Return what a person should know beside the numbers."""
    history, answered = found.history, int(found.answered.sum())
    last = int(history.at_ms[-1])
    told = [
        f"{len(history):,} rows; {answered:,} of them, from {found.history.when(found.from_ms)} to {found.history.when(last)}, were "
        f"answered and have a label. The first version was trained on {found.first_rows:,} rows before that, in "
        f"{found.first_seconds:.1f} s.",
        f"{found.metric} is of the answers as a rollout would have given them, each row's loss counted as at most {found.model.spec.cap:g}; "
        "lower is better.",
    ]
    told += found.remarks
    told.append(
        "`cpu s` are the seconds of CPU that retrains took; `other` were rolled back, failed, or had not ended."
    )
    if "scheduled" in found.lives:
        new_rows = found.lives["scheduled"].strategy.model.spec.retrain.new_rows
        schedule = found.lives["scheduled"].strategy.model.spec.retrain.schedule
        when = [f"by `{schedule}`"] if schedule else []
        when += [f"after each {new_rows:,} labelled rows"] if new_rows else []
        never = _never_came(found.lives["scheduled"], "name a denser one with --schedule")
        told.append(f"`scheduled` retrains {' and '.join(when)}.{never}")
    if "always" in found.lives:
        told.append(
            f"`always` retrains every {_lasting(found.every_ms)}, with no cooldown and no budget; its gates hold like the others', "
            "over candidates that are judged by one fit each."
            f"{_never_came(found.lives['always'], 'say less with --every')}"
        )
    for life in _watched(found):
        told += [_false_alarms(found, life), *_declined(life)]
    told.append(
        f"History was lived in steps of {_lasting(found.step_ms)}: a candidate answers from the step after the one in which it was ordered."
    )
    if found.model.spec.rollout.strategy != "immediate":
        told.append(
            "No guardrail takes a challenger back here: history has no failed requests, and does not know how long answers took."
        )
    if found.model.spec.rollout.approval != "auto" or found.model.spec.rollout.checks is not None:
        told.append("Approvals and checks from outside are taken as given at once.")
    refused = Counter(history.refused)
    for reason, count in refused.most_common(_MOST_REFUSALS):
        told.append(f"{count:,} rows were refused by the contract of source {reason}.")
    return told


def _never_came(life: Life, remedy: str) -> str:
    """Return a sentence that a strategy never came to retrain, to be put behind another; nothing, if it did."""
    if life.retrains:
        return ""
    return f" That never came while rows were answered, so it is `never` by another name: {remedy}."


def page(found: Backtest) -> Page:
    """Return it as a page."""
    model = found.model
    blocks: list[Block] = [
        Text(_best(found)),
        Picture("error", _errors(found), f"{found.metric} over time; dots are versions that came to answer."),
        *(
            [
                Picture(
                    "gain",
                    _gains(found),
                    f"What each strategy has saved beside never retraining, in {found.metric} summed over rows.",
                )
            ]
            if "never" in found.lives
            else []
        ),
        Heading("Strategies"),
        Table(rows(found)),
        Bullets(sentences(found)),
        Heading("Alarms"),
        Table(
            alarms(found),
            "No window was further from its reference than the stated rate of false alarms allows.",
        ),
    ]
    for name, life in found.lives.items():
        if life.retrains:
            blocks += [
                Heading(f"Retrains of `{name}`"),
                Table([_retrain(found, each) for each in life.retrains]),
            ]
    text = yaml.safe_dump(specs.to_document(model)["spec"], sort_keys=False, default_flow_style=None)
    blocks += [
        Heading("The spec"),
        Items({"model": model.name}),
        Bullets([f"`{line}`" for line in text.splitlines()]),
    ]
    return Page(f"Backtest of {model.name}", blocks)


def report(planned: Backtest, applied: Backtest | None, fault: str = "") -> str:
    """Return a section for a plan's Markdown report: what the planned spec would have done, beside what is applied."""
    lines = ["", f"## Backtest of `{planned.model.name}`", "", _best(planned), ""]
    beside = {"planned": planned} | ({"applied": applied} if applied is not None else {})
    names = ["strategy"]
    for called, each in beside.items():
        names += [f"{each.metric}, {called}", f"retrains, {called}", f"refused, {called}"]
    lines += [f"| {' | '.join(names)} |", f"|{'---|' * len(names)}"]
    for name in planned.lives:
        cells = [f"`{name}`"]
        for each in beside.values():
            life = each.lives.get(name)
            cells += (
                ["", "", ""]
                if life is None
                else [f"{each.value(name):.4g}", str(len(life.retrains)), str(_count(life, "refused"))]
            )
        lines.append(f"| {' | '.join(cells)} |")
    if fault:
        lines += ["", f"What is applied now could not be lived beside it: {fault}"]
    elif applied is None:
        lines += ["", "Nothing is applied yet that it could be compared with."]
    lines += ["", *(f"- {each}" for each in sentences(planned))]
    if told := alarms(planned):
        lines += ["", "| at | drift | drifted | came of it |", "|---|---|---|---|"]
        lines += [
            f"| {each['at']} | {each['drift']} | {each['drifted'].replace('|', chr(92) + '|')} | {each['came of it']} |"
            for each in told[:50]
        ]
        if len(told) > 50:
            lines.append(f"\n… and {len(told) - 50} more alarms")
    return "\n".join(lines) + "\n"


def _best(found: Backtest) -> str:
    best = min(found.lives, key=lambda name: (found.value(name), list(found.lives).index(name)))
    value = found.value(best)
    if best == "never" or "never" not in found.lives:
        return f"`{best}` was best on this history: {found.metric} {value:.4g}."
    return (
        f"`{best}` was best on this history: {found.metric} {value:.4g}, {_beside(value, found.value('never'))} beside never "
        f"retraining, for {len(found.lives[best].retrains)} retrains."
    )


def _false_alarms(found: Backtest, life: Life) -> str:
    rate = found.model.spec.monitoring.false_alarms
    span_ms = int(found.history.at_ms[-1]) - found.from_ms
    allowed = rate.count * span_ms / rate.per_ms
    fruitless = sum(_outcome(each, life) not in ("live", "open") for each in life.alarms)
    return (
        f"{_alarms(len(life.alarms))}; {fruitless} of them brought no better model. Were nothing to change, the spec's "
        f"{rate.count} per {_lasting(rate.per_ms)} would give about {allowed:.1f} in this time."
    )


def _alarms(count: int) -> str:
    return "1 alarm" if count == 1 else f"{count} alarms"


def _declined(life: Life) -> list[str]:
    """Return a sentence on why alarms came to no retrain, if some did not."""
    causes = Counter(each.cause for each in life.alarms if not each.commands)
    if not causes:
        return []
    why = " and ".join(f"{count} {_CAUSES[cause]}" for cause, count in causes.most_common())
    return [f"{_alarms(causes.total())} ordered no retrain: {why}."]


def _watched(found: Backtest) -> list[Life]:
    return [life for life in found.lives.values() if life.strategy.watches]


def _alarm(found: Backtest, alarm: Alarm, life: Life) -> dict[str, Any]:
    drift = alarm.drift
    named = [each.feature for each in drift.features if each.drifted]
    return {
        "at": iso(drift.at_ms),
        "row": found.history.row(drift.at_ms),
        "kind": drift.kind,
        "version": drift.version,
        "drifted": named or ["loss" if drift.kind in ("performance", "concept") else "prediction"],
        "severity": drift.severity,
        "summary": drift.summary,
        "policy": alarm.said,
        "outcome": _outcome(alarm, life),
    }


def _alarm_row(found: Backtest, alarm: Alarm, life: Life) -> dict[str, Any]:
    told = _alarm(found, alarm, life)
    return {
        "at": found.history.when(alarm.drift.at_ms),
        "drift": told["kind"],
        "version": told["version"],
        "drifted": ", ".join(told["drifted"]),
        "came of it": told["outcome"],
        "what was seen": told["summary"],
        "what the policy said": told["policy"],
    }


def _outcome(alarm: Alarm, life: Life) -> str:
    """Return what came of an alarm's last retrain; declined, if it had none."""
    outcomes = {each.command_id: each.outcome for each in life.retrains}
    return outcomes[alarm.commands[-1]] if alarm.commands else "declined"


def _retrain(found: Backtest, each: Retrain) -> dict[str, Any]:
    return {
        "as of": found.history.when(each.as_of_ms),
        "trigger": each.trigger,
        "version": each.version or None,
        "rows": each.rows or None,
        "seconds": round(each.seconds, 2) if each.seconds else None,
        "came of it": each.outcome,
        "why": each.sentence or each.reason,
    }


def _errors(found: Backtest) -> str:
    edges = _edges(found)
    marks: list[Mark] = []
    for name, colour in zip(found.lives, COLOURS, strict=False):
        points = _points(found, name, edges)
        marks.append(Line(points, colour, name))
        if places := [(at, _at(points, at)) for at, _ in found.lives[name].promotions]:
            marks.append(Dots(places, colour, radius=4, opacity=1))
    return plot(f"{found.metric} by strategy", "", found.metric, marks, in_time=True)


def _gains(found: Backtest) -> str:
    answered, edges = found.answered, _edges(found)
    at_ms = found.history.at_ms[answered]
    never = found.lives["never"].losses[answered]
    places = np.searchsorted(at_ms, edges[1:], side="right")
    marks: list[Mark] = []
    for (name, life), colour in zip(found.lives.items(), COLOURS, strict=False):
        saved = np.concatenate([[0.0], np.cumsum(never - life.losses[answered])])
        marks.append(
            Line(
                [(float(edge), float(saved[at])) for edge, at in zip(edges[1:], places, strict=True)],
                colour,
                name,
            )
        )
    return plot("saved beside never", "", "summed", marks, in_time=True)


def _edges(found: Backtest) -> Any:
    at_ms = found.history.at_ms[found.answered]
    periods = max(1, min(_PERIODS, len(at_ms) // _LEAST))
    last = int(at_ms[int((len(at_ms) - 1) * 0.999)]) + 1
    return np.linspace(found.from_ms, max(last, found.from_ms + 1), periods + 1)


def _points(found: Backtest, name: str, edges: Any) -> list[tuple[float, float]]:
    """Return the middle of each period that has rows enough, and what the losses in it come to."""
    answered = found.answered
    lost, places = found.lives[name].losses[answered], np.searchsorted(found.history.at_ms[answered], edges)
    return [
        (float(edges[at] + edges[at + 1]) / 2, aggregate(found.metric, lost[first:stop]))
        for at, (first, stop) in enumerate(pairwise(places))
        if stop - first >= min(_LEAST, len(lost))
    ]


def _at(points: Sequence[tuple[float, float]], at: float) -> float:
    """Return the height of a line at a place."""
    if not points:
        return 0.0
    return float(np.interp(at, [x for x, _ in points], [y for _, y in points]))


def _beside(value: float, first: float | None) -> str:
    if first is None or not first or not math.isfinite(first):
        return ""
    return f"{(value - first) / first:+.1%}"


def _count(life: Life, outcome: str) -> int:
    return sum(each.outcome == outcome for each in life.retrains)


def _lasting(milliseconds: int) -> str:
    """Return a length of time as specs write it, to the largest unit that says it well."""
    for unit in (86_400_000, 3_600_000, 60_000):
        if milliseconds >= 10 * unit:
            return format_duration(round(milliseconds / unit) * unit)
    return format_duration(max(round(milliseconds / 1_000), 1) * 1_000)
