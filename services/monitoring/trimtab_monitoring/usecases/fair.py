"""Fairness in production: what a full window of labelled predictions says of the groups that a model's gates and `monitoring.fairness` name."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray
from trimtab_core import fairwatch, measured, specs, windows
from trimtab_core.baseline import Calibration, Settings
from trimtab_core.fairness import Fairness, Group
from trimtab_core.fairwatch import FairState, Looked
from trimtab_core.findings import Finding
from trimtab_core.losses import are_probabilities
from trimtab_core.quality import as_texts
from trimtab_core.specs import FairnessSpec, Model, ModelSpec
from trimtab_core.watched import Published, Reading, Row
from trimtab_core.windows import PerformanceWindow

from trimtab_monitoring.usecases import alarms
from trimtab_monitoring.usecases.entities import Alert, LabelStream, News, group_stream
from trimtab_monitoring.usecases.ports import Unit


async def look(
    unit: Unit, model: Model, window: PerformanceWindow, features: Sequence[str], calibration: Calibration,
    settings: Settings, before: Mapping[str, FairState], *, now_ms: int,
) -> tuple[Mapping[str, FairState], Published | None]:  # fmt: skip
    """Take a window into what is known of each limit, tell of it and of groups without one, and return what is known then.

    With it comes the window as what late labels may correct, if anything is told of it. The rate of false alarms that the
    spec states holds for all limits together.
    """
    limits = {_name(each): each for each in model.spec.fairness if each.limited}
    if not model.spec.fairness and not before:
        return before, None
    from_ms, to_ms = window.rows[0].at_ms, window.end[0]
    mine = {row.id for row in window.rows}
    closed, _ = await unit.rows(LabelStream.of(model), after_ms=from_ms - 1, until_ms=to_ms)
    rows = [row for row in closed if row.id in mine and row.version == window.version]
    after, readings, news = dict[str, FairState](), list[Reading](), list[News]()
    for name, limit in limits.items():
        asked = measured.fairness_of(limit)
        label, said, group = await _known(unit, model, asked, rows, features, (from_ms, to_ms))
        looked = fairwatch.look(
            asked, before.get(name), label, said, group, model.spec.label.classes,
            version=window.version, from_ms=from_ms, to_ms=to_ms, cap=_cap(model, asked),
            windows=len(limits) / (calibration.performance.false_alarms * settings.shares),
            patience=settings.rule.k,
        )  # fmt: skip
        after[name] = looked.state
        readings += _readings(
            model.name, window.version, asked, looked.groups, looked.finding, from_ms, to_ms, label.size
        )
        news += _news(model.name, name, before.get(name), looked, now_ms)
    for each in model.spec.fairness:
        if not each.limited:
            readings += await _alone(unit, model, window.version, each, rows, features, (from_ms, to_ms))
    for name in before.keys() - limits.keys():
        gone = replace(before[name], since_ms=None)
        news += _over(model.name, name, before[name], gone, "The spec has no such limit any more.", now_ms)
    readings = _once(readings)
    await unit.tell([*readings, *news])
    await unit.keep_readings("fairness", readings)
    if not readings:
        return after, None
    extent = window.covers
    told = Published(
        "fairness", window.version, extent.after, extent.until, measure(model.spec), tuple(readings)
    )
    return after, told


async def again(
    unit: Unit, model: Model, published: Published, rows: Sequence[Row], features: Sequence[str]
) -> list[Reading]:
    """Return what a window that was told says with its `rows` and their labels of now; what is known of each limit stays."""
    span = published.readings[0].from_ms, published.readings[0].to_ms
    readings = list[Reading]()
    for each in model.spec.fairness:
        readings += await _alone(unit, model, published.version, each, rows, features, span)
    return _once(readings)


async def _alone(
    unit: Unit, model: Model, version: int, each: FairnessSpec, rows: Sequence[Row], features: Sequence[str],
    span: tuple[int, int],
) -> list[Reading]:  # fmt: skip
    """Return what the rows of a window say of groups by themselves."""
    asked = measured.fairness_of(each)
    label, said, group = await _known(unit, model, asked, rows, features, span)
    found = fairwatch.alone(asked, label, said, group, model.spec.label.classes)
    return _readings(model.name, version, asked, *found, *span, label.size)


def _once(readings: Sequence[Reading]) -> list[Reading]:
    """Return each figure once, by the first that asks for it: two may differ in their limits alone."""
    found: dict[str, Reading] = {}
    for reading in readings:
        found.setdefault(reading.id, reading)
    return list(found.values())


def measure(spec: ModelSpec) -> str:
    """Return what a model's figures of fairness are, as text."""
    return "; ".join(str(measured.fairness_of(each)) for each in spec.fairness)


async def _known(
    unit: Unit,
    model: Model,
    asked: Fairness,
    rows: Sequence[Row],
    features: Sequence[str],
    span: tuple[int, int],
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.str_]]:
    """Return the labels, predictions or chances, and groups of those rows that have all of them."""
    known, group = await _groups(unit, model, asked.group, rows, features, span)
    label, said, readable = _said(known)
    return label, said, group[readable]


async def _groups(
    unit: Unit, model: Model, group: str, rows: Sequence[Row], features: Sequence[str], span: tuple[int, int]
) -> tuple[list[Row], NDArray[np.str_]]:
    """Return those rows of which the group is known, and their groups."""
    feature = f"request.{group}"
    if rows and feature in features:
        column = as_texts(windows.columns(rows, features)[feature])
        kept = [at for at, value in enumerate(column) if value not in ("", "nan")]
        return [rows[at] for at in kept], column[kept]
    said = await unit.groups(group_stream(model, group), after_ms=span[0] - 1, until_ms=span[1])
    known = [row for row in rows if row.id in said]
    return known, np.array([said[row.id] for row in known], str)


def _said(rows: Sequence[Row]) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.bool_]]:
    """Return the labels and predictions, or chances, of those rows that have them, and which rows those are."""
    label = np.array([np.nan if row.label is None else row.label for row in rows], np.float64)
    readable = np.isfinite(label)
    if any(row.champion_probabilities for row in rows):
        width = max(len(row.champion_probabilities or b"") for row in rows) // 8
        said = np.full((len(rows), width), np.nan)
        for at, row in enumerate(rows):
            chances = np.frombuffer(row.champion_probabilities or b"")
            said[at, : chances.size] = chances
        readable &= are_probabilities(said).all(axis=1)
    else:
        said = np.array([row.champion for row in rows], np.float64)
        readable &= np.isfinite(said)
    return label[readable], said[readable], readable


def _cap(model: Model, asked: Fairness) -> float:
    """Return the most that a row's loss counts, in its own unit."""
    spec = model.spec
    return specs.CAPS["log_loss"] if asked.of == "log_loss" and spec.judged_by != "log_loss" else spec.cap


def _name(limit: FairnessSpec) -> str:
    said = (
        f"at most {limit.max_difference:g} apart"
        if limit.max_difference is not None
        else f"at least {limit.min_ratio:g} times"
    )
    return f"{measured.name_of(limit)}, {said}"


def _readings(
    model: str, version: int, asked: Fairness, groups: Sequence[Group], found: Finding, from_ms: int, to_ms: int,
    rows: int,
) -> list[Reading]:  # fmt: skip
    told = [
        Reading(
            "performance", model, version, asked.of, group.rate, from_ms, to_ms, group.rows,
            f"request.{asked.group}={group.name}", low=group.low, high=group.high,
        )
        for group in groups
    ]  # fmt: skip
    if found.value is not None:
        how = "difference" if asked.min_ratio is None else "ratio"
        told.append(
            Reading(
                "performance", model, version, f"{asked.of}_{how}", found.value, from_ms, to_ms, rows,
                f"request.{asked.group}", asked.limit, low=found.low, high=found.high,
            )
        )  # fmt: skip
    return told


def _news(model: str, name: str, before: FairState | None, looked: Looked, now_ms: int) -> list[News]:
    state, told = looked.state, list[News]()
    if before is not None and before.since_ms is not None and before.since_ms != state.since_ms:
        why = (
            f"Version {before.version} keeps the limit again: {looked.finding.sentence}"
            if before.version == state.version
            else f"Version {state.version} answers now."
        )
        told += _over(model, name, before, state, why, now_ms)
    if state.since_ms is not None and (before is None or before.since_ms != state.since_ms):
        told.append(_alert(model, name, state, looked.sentence, now_ms))
    return told


def _over(
    model: str, name: str, before: FairState, after: FairState, sentence: str, now_ms: int
) -> list[News]:
    if before.since_ms is None or after.since_ms == before.since_ms:
        return []
    return [alarms.resolved(_alert(model, name, before, sentence, now_ms))]


def _alert(model: str, name: str, state: FairState, sentence: str, now_ms: int) -> Alert:
    occasion = f"{model}/{state.version}/{name}/{state.since_ms}"
    return Alert(occasion, model, "warning", "fairness", sentence, now_ms, occasion)
