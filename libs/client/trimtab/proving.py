"""A project's tests, run before it is applied: contracts and features here, behaviour against the live version.

What needs a model that answers waits where there is none: it is held against the next
candidate in any case, as a gate.
"""

import asyncio
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from trimtab_contracts.registry.v1.registry_pb2 import Deployment
from trimtab_core import examples, specs
from trimtab_core.behaviour import MOST_ROWS, Asked, behave
from trimtab_runtime.clock import from_timestamp
from trimtab_runtime.errors import NotFound

from trimtab.client import Trimtab
from trimtab.project import Project


@dataclass(frozen=True, slots=True)
class Outcome:
    """What one test came to."""

    suite: str
    """Kind and name of the document."""
    name: str
    place: str
    """File and line of the document."""
    state: Literal["passed", "failed", "waits"]
    said: str = ""
    """Why it failed, or what it waits for."""

    def __str__(self) -> str:
        return f"{self.place}: {self.suite}: {self.name}: {self.said}"


def offline(project: Project) -> Iterator[Outcome]:
    """Hold the examples of a project against its own specs."""
    sources = {each.name: each.spec for each in project.resources if isinstance(each, specs.Source)}
    views = {each.name: each.spec for each in project.resources if isinstance(each, specs.FeatureView)}
    for test in project.tests:
        if isinstance(test, specs.ContractTest):
            source = sources.get(test.spec.source)
            if source is None:
                yield _missing(project, test, "source", test.spec.source, sources)
                continue
            found = examples.contract(test.spec, source)
        else:
            view = views.get(test.spec.view)
            if view is None:
                yield _missing(project, test, "view", test.spec.view, views)
                continue
            if view.source not in sources:
                yield _missing(project, test, "source", view.source, sources)
                continue
            found = examples.features(test.spec, view, sources[view.source])
        for name, said in found:
            yield Outcome(test.key, name, _place(project, test, name), "failed" if said else "passed", said)


def _place(project: Project, test: specs.ProjectTest, name: str) -> str:
    """Return where an example is written."""
    if isinstance(test, specs.ContractTest):
        at = next((at for at, each in enumerate(test.spec.events) if each.name == name), 0)
        return project.place_of(test.key, ("spec", "events", at))
    number = name.partition(":")[0]
    at = int(number) - 1 if number.isdecimal() else 0
    return project.place_of(test.key, ("spec", "expect" if number.isdecimal() else "events", at))


def _missing(
    project: Project, test: specs.ProjectTest, what: str, name: str, known: dict[str, Any]
) -> Outcome:
    there = ", ".join(sorted(known)) or "none"
    said = f"{name!r} is no {what} of this project, which has {there}: add it, or correct the name"
    return Outcome(test.key, what, project.place_of(test.key, ("spec", what)), "failed", said)


def behaviours(project: Project) -> list[specs.ModelTest]:
    """Return the tests of a project that a model has to answer."""
    return [each for each in project.resources if isinstance(each, specs.ModelTest)]


def waiting(project: Project, test: specs.ModelTest, why: str) -> Iterator[Outcome]:
    """Say of all cases of a test that they wait."""
    for name, place in _cases(project, test):
        yield Outcome(test.key, name, place, "waits", why)


def _cases(project: Project, test: specs.ModelTest) -> Iterator[tuple[str, str]]:
    for kind in ("golden", "invariance", "direction"):
        for at, case in enumerate(getattr(test.spec, kind)):
            yield case.name, project.place_of(test.key, ("spec", kind, at))


async def against_live(trimtab: Trimtab, project: Project) -> list[Outcome]:
    """Hold the behavioural tests against the live version of each model, and say of the others what they wait for."""
    found: list[Outcome] = []
    for test in behaviours(project):
        model = test.spec.model
        try:
            deployment = await trimtab.deployment(model)
        except NotFound:
            found += waiting(
                project, test, f"model {model!r} has not been applied yet: it is held against its candidates"
            )
            continue
        if not deployment.HasField("champion"):
            found += waiting(
                project, test, f"model {model!r} has no live version yet: it is held against its candidates"
            )
            continue
        found += await _behaved(trimtab, project, test, deployment)
    return found


async def _behaved(
    trimtab: Trimtab, project: Project, test: specs.ModelTest, deployment: Deployment
) -> Sequence[Outcome]:
    names, number = list(deployment.champion.features), deployment.champion.number
    texts = list(deployment.champion.texts)
    rows = np.empty((0, len(names)), np.float32), np.empty((0, len(texts)), object)
    if any(not case.rows for case in (*test.spec.invariance, *test.spec.direction)):
        rows, why = await _newest_rows(trimtab, test.spec.model, deployment)
        if why:
            return list(waiting(project, test, why))
    loop = asyncio.get_running_loop()

    def predict(numbers: NDArray[np.float32], words: NDArray[np.object_]) -> NDArray[np.float64]:
        answer = trimtab.score(test.spec.model, names, numbers, version=number, text_names=texts, texts=words)
        return asyncio.run_coroutine_threadsafe(answer, loop).result()

    asked = Asked(names, texts, tuple(deployment.champion.classes), rows, predict)
    results = await asyncio.to_thread(lambda: list(behave(test.spec, asked)))
    places = dict(_cases(project, test))
    return [
        Outcome(
            test.key, name, places[name], "passed" if finding.passed else "failed",
            "" if finding.passed else f"of version {number}: {finding.sentence}",
        )
        for name, finding in results
    ]  # fmt: skip


async def _newest_rows(
    trimtab: Trimtab, model: str, deployment: Deployment
) -> tuple[tuple[NDArray[np.float32], NDArray[np.object_]], str]:
    """Return the rows at the end of what the live version was trained on, its numbers and its texts, or why there are none."""
    names, texts = deployment.champion.features, deployment.champion.texts
    none = np.empty((0, 0), np.float32), np.empty((0, 0), object)
    trainer = (await trimtab.model(model)).spec.trainer
    end_ms = from_timestamp(deployment.champion.trained_to) + 1
    start_ms = end_ms - max(1, round(trainer.window * trainer.holdout))
    table = (await trimtab.training_set(model, start_ms, end_ms)).arrow()
    if lacking := [name for name in [*names, *texts] if name not in table.column_names]:
        return none, f"the live version takes {lacking[0]!r}, which the model's spec has no more"
    if not table.num_rows:
        return none, "no rows that the live version was trained on are archived any more"
    newest = table.slice(max(0, table.num_rows - MOST_ROWS))
    numbers = np.empty((len(newest), len(names)), np.float32)
    for at, name in enumerate(names):
        numbers[:, at] = newest[name].to_numpy()
    words = np.empty((len(newest), len(texts)), object)
    for at, name in enumerate(texts):
        words[:, at] = newest[name].fill_null("").to_pylist()
    return (numbers, words), ""
