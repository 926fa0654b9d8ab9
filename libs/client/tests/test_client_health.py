"""The command's words for how a model does and which labels are wanted, on a monitoring in this process."""

import ast
import asyncio
import csv
import json
import re
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest
import yaml
from trimtab import cli, project
from trimtab.cli import health, labels
from trimtab.cli.ingest import reading
from trimtab.client import SERVICES, Trimtab
from trimtab.typed import Reading as ReadAs
from trimtab.typed import Typing
from trimtab_contracts.features.v1.features_pb2 import ArchivedEvents
from trimtab_core.contract import compile_contract
from trimtab_core.specs import LabelSpec, Model, Source
from trimtab_core.watched import Reading, Standing, Watch
from trimtab_monitoring.grpc_api import MonitoringApi
from trimtab_monitoring.testing import MemoryAlerts, MemoryStore
from trimtab_monitoring.usecases.alerting import Alerting
from trimtab_monitoring.usecases.calibrating import Calibrations
from trimtab_monitoring.usecases.entities import Arrivals, Predicted, WantedLabel
from trimtab_runtime.clock import ManualClock

HOUR = 3_600_000
SPEC = {
    "task": "regression", "source": "pickups", "features": ["request.x"],
    "label": {"source": "dropoffs", "on": "trip", "value": "minutes", "within": "12h"}, "trainer": {"window": "30d"},
    "rollout": {"cap": 60}, "alerts": {"to": ["pager"]},
}  # fmt: skip


class Channel:
    """Leads straight to what answers."""

    def __init__(self, api: Any) -> None:
        self._api = api

    def unary_unary(self, method: str, **_: Any) -> Any:
        async def call(request: Any, **__: Any) -> Any:
            return await getattr(self._api, method.rpartition("/")[2])(request, None)

        return call

    def unary_stream(self, method: str, **_: Any) -> Any:
        return lambda request, **__: getattr(self._api, method.rpartition("/")[2])(request, None)

    stream_unary = stream_stream = unary_unary


class Archive:
    """Has two events, and gives those of the times that are asked for."""

    async def ReadEvents(self, request: Any, _: Any) -> AsyncIterator[ArchivedEvents]:
        assert request.source == "pickups"
        rows = pa.table({"trip_id": ["trip-6", "trip-7"], "distance": [1.0, 2.5], "event.time": [0, HOUR]})
        asked = pc.and_(
            pc.greater_equal(rows["event.time"], request.start.ToMilliseconds()),
            pc.less(rows["event.time"], request.end.ToMilliseconds()),
        )
        sink = pa.BufferOutputStream()
        with pa.ipc.new_stream(sink, rows.schema) as writer:
            writer.write_table(rows.filter(asked))
        yield ArchivedEvents(extent=ArchivedEvents.Extent(rows=1))
        yield ArchivedEvents(arrow=bytes(sink.getvalue()))


async def filled(store: MemoryStore) -> None:
    estimate = Reading(
        "performance", "minutes", 1, "estimated_mae", 3.25, 13 * HOUR, 14 * HOUR, 500, low=3.0, high=3.5
    )
    unknown = Reading(
        "performance", "minutes", 1, "estimated_mae", None, 0, HOUR, 500, unknown="Unknown of version 1: why."
    )
    real = Reading("performance", "minutes", 1, "mae", 3.125, 0, HOUR, 500, threshold=4.0)
    said = Predicted(
        "minutes", 1, 0, "", 1, ("request.x",), ["p"], ["trip-7"], [HOUR], [9.5], None, [b"\0" * 8]
    )
    await store.take(Arrivals([said]))
    async with store.begin("minutes") as unit:
        await unit.save_watch(Watch(closed_ms=2 * HOUR, predictions=10, labels=8))
        await unit.keep_readings("estimate", [estimate, unknown])
        await unit.keep_readings("performance", [real])
        await unit.put_wanted([WantedLabel("minutes", 1, "p", "trip-7", HOUR, 9.5, 4.5, 0.125, 0, HOUR, 500)])


@pytest.fixture
def tell(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """Run the command and return what it prints."""
    store = MemoryStore()
    asyncio.run(filled(store))
    model = Model.model_validate({"metadata": {"name": "minutes"}, "spec": SPEC})
    specs: Any = SimpleNamespace(model=lambda _: model, sources={})
    rollouts: Any = SimpleNamespace(standing=lambda name: Standing(name, 1, 1))
    alerting = Alerting(MemoryAlerts(), specs, {}, ManualClock(0))
    calibrations = Calibrations(store, specs, rollouts, None, lambda _: None)  # type: ignore[arg-type]
    api = MonitoringApi(store, specs, rollouts, calibrations, alerting, None, None)  # type: ignore[arg-type]
    apis: dict[str, Any] = dict.fromkeys(SERVICES, api) | {"feature_store": Archive()}
    trimtab = Trimtab({name: Channel(each) for name, each in apis.items()})  # type: ignore[misc]
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.setattr(Trimtab, "connect", lambda: nullcontext(trimtab))
    for module in (health, labels):
        monkeypatch.setattr(module, "ask", lambda _, question: asyncio.run(question(trimtab)))

    def run(*words: str) -> str:
        monkeypatch.setattr(sys, "argv", ["trimtab", *words])
        cli.app(standalone_mode=False)
        return capsys.readouterr().out

    return run


def test_health_says_how_far_an_estimate_is_ahead_of_labels_and_why_one_is_not_known(
    tell: Callable[..., str],
) -> None:
    lines = tell("model", "health", "minutes").splitlines()

    assert lines[0] == (
        "version 1 of minutes: 10 predictions, 8 with a label, 2 without, closed up to 1970-01-01T02:00"
    )
    estimate, unknown, real = (
        next(it for it in lines if each in it) for each in ("3.25", "unknown", "3.125")
    )
    assert "3 to 3.5" in estimate
    assert "1970-01-01T14:00, 12 h ahead of labels" in estimate
    assert "its labels have come" in unknown
    assert "labels" not in real
    assert lines[-3:] == [
        "Unknown of version 1: why.",
        "Version 1 is not watched, for nothing is known of what is usual for it: there is no reference of held-out rows that can "
        "be read: train it again.",
        "alerts.to of model 'minutes' names pager, which TRIMTAB_MONITORING_ALERT_SINKS does not: add it there, or nobody is told",
    ]
    told = json.loads(tell("model", "health", "minutes", "--json"))["metrics"]
    assert [it.get("value") for it in told] == [3.25, None, 3.125]


def test_wanted_labels_are_listed_with_their_chance(tell: Callable[..., str]) -> None:
    listed = tell("labels", "wanted", "minutes")
    assert all(word in listed for word in ("trip-7", "1970-01-01T01:00", "9.5", "4.5", "0.125", "500"))
    (told,) = json.loads(tell("labels", "wanted", "minutes", "--json", "--limit", "5"))
    assert (told["key"], told["chance"], told["expected_loss"]) == ("trip-7", 0.125, 4.5)


async def _awaited(code: str) -> None:
    running: Any = eval(compile(code, "without-labels.md", "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT), {})
    await running


def test_what_the_page_says_of_a_labelling_tool_leads_from_wanted_rows_to_events_of_labels(
    tell: Callable[..., str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    page = (Path(__file__).parents[3] / "docs/without-labels.md").read_text()
    section = page[page.index("### To a labelling tool") : page.index("## What was measured")]
    [code], [text] = (
        re.findall(rf"```{language}\n(.*?)```", section, re.DOTALL) for language in ("python", "yaml")
    )
    Path("wanted.json").write_text(tell("labels", "wanted", "minutes", "--json"))

    asyncio.run(_awaited(code))

    [row] = csv.DictReader(Path("to-label.csv").read_text().splitlines())
    assert row == {"chance": "0.125", "trip_id": "trip-7", "distance": "2.5"}
    assert json.loads(Path("tasks.json").read_text()) == [
        {"data": {"chance": 0.125, "trip_id": "trip-7", "distance": 2.5}}
    ]

    [answers] = project.parse(text).resources
    assert isinstance(answers, Source)
    [options] = re.findall(r"trimtab ingest answers project-1.csv (.*)", section)
    how = reading([each for each in options.split() if each != "--map"], [], [], "")
    said = row | {"updated_at": "1970-01-03T01:00:00Z", "answer": "7.5"}
    typed = Typing(answers.spec, ReadAs(**how)).fields(said)
    checked = compile_contract(answers.spec).check([json.dumps(typed).encode()], np.array([60 * HOUR]))
    assert checked.reasons == [()]
    assert checked.rows[0] is not None
    assert (checked.rows[0]["trip_id"], checked.rows[0]["minutes"]) == ("trip-7", 7.5)
    label = LabelSpec.model_validate(
        yaml.safe_load(section.split("with `label: ")[1].split("` in the")[0].replace("on:", "'on':"))
    )
    assert (label.source, label.on, label.value) == (answers.name, answers.spec.key, "minutes")
