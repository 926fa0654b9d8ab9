"""The command's words for how a model does and which labels are wanted, on a monitoring in this process."""

import asyncio
import json
import sys
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
from trimtab import cli
from trimtab.cli import health, labels
from trimtab.client import SERVICES, Trimtab
from trimtab_core.specs import Model
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

    def __init__(self, api: MonitoringApi) -> None:
        self._api = api

    def unary_unary(self, method: str, **_: Any) -> Any:
        async def call(request: Any, **__: Any) -> Any:
            return await getattr(self._api, method.rpartition("/")[2])(request, None)

        return call

    unary_stream = stream_unary = stream_stream = unary_unary


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
    trimtab = Trimtab({name: Channel(api) for name in SERVICES})  # type: ignore[arg-type, misc]
    monkeypatch.setenv("COLUMNS", "200")
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
