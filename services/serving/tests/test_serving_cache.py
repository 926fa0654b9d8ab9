"""Graphs that fit into memory, and those that do not: nobody who asks is told which."""

import json
import threading
from collections.abc import AsyncIterator
from pathlib import Path

import numpy as np
import pytest
from trimtab_contracts.registry.v1.registry_pb2 import Rollout, VersionRef
from trimtab_runtime.clock import iso
from trimtab_runtime.errors import Unavailable
from trimtab_runtime.pool import Pool, working_until
from trimtab_runtime.testing import Handed
from trimtab_serving import cache, testing
from trimtab_serving.cache import SessionCache
from trimtab_serving.engines import OnnxEngine, Session, size_of
from trimtab_serving.errors import ModelBusy
from trimtab_serving.testing import Instance

PROJECTS = [testing.project(f"-{number}") for number in range(6)]
ROWS = np.zeros((1, 3), np.float32)
GRAPH = testing.linear_model([1, 0, 0])
BUDGET = 3 * size_of(GRAPH)


class Engine(OnnxEngine):
    """ONNX Runtime that counts what it opens, and may be held up."""

    def __init__(self) -> None:
        self.loads = 0
        self.held_up = threading.Event()
        self.held_up.set()

    def load(self, name: str, onnx: bytes) -> Session:
        self.loads += 1
        assert self.held_up.wait(60)
        return super().load(name, onnx)


@pytest.fixture
def engine() -> Engine:
    return Engine()


@pytest.fixture
async def instance(tmp_path: Path, engine: Engine) -> AsyncIterator[Instance]:
    """Six models, of which three fit into memory."""
    made = Instance(tmp_path / "state", engine=engine, memory_bytes=BUDGET)
    for project in PROJECTS:
        await made.hear(*project.specs)
    yield made
    made.close()


def version(path: Path, at: int, number: int = 1) -> VersionRef:
    """Return a version that answers 10 times the place of its model, and its number."""
    onnx = testing.linear_model([1, 0, 0], bias=10 * at + number)
    return testing.version(path, number, PROJECTS[at].features, onnx)


async def deploy_all(instance: Instance, path: Path) -> None:
    await instance.hear(
        *(testing.deployment(project.model.name, 1, version(path, at)) for at, project in enumerate(PROJECTS))
    )


def ask(instance: Instance, at: int, number: int = 0) -> float:
    row = {"trip": "t", "at": iso(19_700 * 86_400_000), "zone": 1, "distance": 0}
    answer = instance.predictions.predict(PROJECTS[at].model.name, [json.dumps(row).encode()], number)
    return float(answer.predictions[0])


def cold(instance: Instance) -> set[int]:
    names = [project.model.name for project in PROJECTS]
    return {names.index(it.wanted.model) for it in instance.fleet.standings() if it.cold}


async def test_what_does_not_fit_is_cold_and_answers_like_what_is_warm(
    instance: Instance, engine: Engine, tmp_path: Path
) -> None:
    await deploy_all(instance, tmp_path)

    assert len(cold(instance)) == 3
    assert instance.cache.used_bytes() <= BUDGET
    for _ in range(2):
        assert [ask(instance, at) for at in range(6)] == [1, 11, 21, 31, 41, 51]
    assert instance.cache.used_bytes() <= BUDGET
    assert engine.loads > 6


async def test_what_is_asked_stays_and_what_nobody_asks_goes(
    instance: Instance, engine: Engine, tmp_path: Path
) -> None:
    await deploy_all(instance, tmp_path)
    for at in (0, 1, 2, 0, 1, 5):
        ask(instance, at)
    before = engine.loads

    assert cold(instance) == {2, 3, 4}
    for _ in range(10):
        assert [ask(instance, at) for at in (0, 1, 5)] == [1, 11, 51]
    assert engine.loads == before
    assert instance.cache.reopened == before - 6


async def test_both_sides_of_a_trial_and_what_is_always_to_be_warm_never_go_cold(
    tmp_path: Path, engine: Engine
) -> None:
    always = PROJECTS[1].model.name
    instance = Instance(tmp_path / "state", engine=engine, memory_bytes=BUDGET, always_warm=[always])
    for project in PROJECTS:
        await instance.hear(*project.specs)
    await deploy_all(instance, tmp_path)
    trial = testing.deployment(
        PROJECTS[0].model.name,
        2,
        version(tmp_path, 0),
        challenger=version(tmp_path, 0, 2),
        rollout=Rollout(id="r", strategy="shadow"),
    )
    await instance.hear(trial)

    for at in (0, 1, 2, 3, 4, 5, 2, 3, 4, 5):
        ask(instance, at)

    assert not cold(instance) & {0, 1}
    assert ask(instance, 0, 2) == 2
    [status] = [it for it in instance.fleet.standings() if it.wanted.model == PROJECTS[0].model.name]
    assert status.versions == [(1, True, ""), (2, True, "")]
    instance.close()


async def test_the_version_before_is_back_within_its_first_request_though_it_went_cold(
    instance: Instance, tmp_path: Path
) -> None:
    one, two = version(tmp_path, 0, 1), version(tmp_path, 0, 2)
    model = PROJECTS[0].model.name
    await instance.hear(testing.deployment(model, 1, one))
    await instance.hear(testing.deployment(model, 2, two, previous=one))
    for at in range(1, 6):
        await instance.hear(testing.deployment(PROJECTS[at].model.name, 1, version(tmp_path, at)))
    assert cold(instance) >= {0}

    await instance.hear(testing.deployment(model, 3, one))

    assert ask(instance, 0) == 1


async def test_models_with_the_same_file_share_what_is_in_memory(
    instance: Instance, engine: Engine, tmp_path: Path
) -> None:
    for project in PROJECTS:
        same = testing.version(tmp_path, 1, project.features, GRAPH)
        await instance.hear(testing.deployment(project.model.name, 1, same))

    assert engine.loads == 1
    assert instance.cache.used_bytes() == size_of(GRAPH)
    assert cold(instance) == set()


def opened(engine: Engine) -> tuple[SessionCache, list[cache.Entry]]:
    """Return a cache for one graph, and two graphs of which the first is cold."""
    made = SessionCache(engine, size_of(GRAPH))
    return made, [made.open(f"graph {name}", name, lambda: GRAPH) for name in "ab"]


def test_a_request_waits_for_a_cold_graph_as_long_as_its_caller_does(engine: Engine) -> None:
    _, (first, _) = opened(engine)
    engine.held_up.clear()
    pool, told = Handed(Pool(2)), list[Exception | Session]()
    asked = threading.Semaphore(0)

    def ask(remaining_s: float) -> None:
        working_until(lambda: remaining_s)
        asked.release()
        try:
            told.append(first.session())
        except Unavailable as error:
            told.append(error)

    pool.submit(ask, 60.0)
    assert asked.acquire(timeout=60)
    while engine.loads == 2:  # until it is being loaded
        threading.Event().wait(0.001)
    pool.submit(ask, 0.0)
    while not told:
        threading.Event().wait(0.001)
    engine.held_up.set()
    pool.end(60)

    assert str(told[0]) == "graph a was not loaded in time: ask again"
    assert told[1] is first.warm
    assert engine.loads == 3


def test_so_many_wait_for_a_cold_graph_and_no_more(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cache, "MOST_WAITING", 0)
    _, (first, second) = opened(engine)

    with pytest.raises(ModelBusy, match="graph a has 0 requests waiting"):
        first.session()
    assert second.session() is second.warm


def test_what_goes_cold_answers_whoever_has_taken_it(engine: Engine) -> None:
    made, (first, second) = opened(engine)
    taken = first.session()
    assert second.warm is None

    second.session()

    assert first.warm is None
    assert taken.score("prediction", {"features": ROWS}).tolist() == [0]
    assert made.used_bytes() == size_of(GRAPH)
