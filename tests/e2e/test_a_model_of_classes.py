"""A model whose label, and some of whose features, are texts: trained, gated, asked and watched by the chances it gave."""

from collections.abc import Callable
from typing import Any

import pytest
from trimtab_runtime.errors import Rejected
from trimtab_runtime.testing import eventually

pytestmark = [pytest.mark.real, pytest.mark.timeout(300)]

CLASSES = ("low", "middle", "high")
GATES = "[{metric: error_rate, at_most: 0.3}, {metric: log_loss, at_most: 0.8}]"
FEATURES = ("request.road", "text(request.note)")


async def test_texts_are_features_and_classes_are_predicted(make_world: Callable[..., Any]) -> None:
    async with make_world("classes", classes=CLASSES, gates=GATES, more_features=FEATURES) as world:
        await world.backfill(8)
        first = await world.first_version()
        assert first.state == "live", first.outcome
        (version,) = await world.trimtab.versions("classes")
        assert (list(version.candidate.classes), list(version.candidate.texts)) == ([*CLASSES], [*FEATURES])

        def row(x: float, **more: Any) -> dict[str, Any]:
            return {"id": str(x), "at": "2023-11-15T00:00:00Z", "road": "b", "x": x, "note": "calm"} | more

        answer = await world.trimtab.predict(
            "classes", [row(-9), row(9, note="Very BUSY; all day", road="new")], version=1
        )
        assert list(answer.classes) == ["low", "high"]
        assert list(answer.class_names) == [*CLASSES]
        assert sum(answer.probabilities) == pytest.approx(2)
        with pytest.raises(Rejected, match="note 7 is no string: send one"):
            await world.trimtab.predict("classes", [row(0, note=7)], version=1)

        await world.live(5)
        assert world.replay.tally.failed_requests == 0, world.replay.tally.failures

        async def watched() -> Any:
            health = await world.trimtab.health("classes")
            found = {reading.name: reading for reading in health.metrics}
            return found if {"log_loss", "estimated_log_loss", "prediction_drift"} <= found.keys() else None

        found = await eventually(watched, what="a window of losses and one of predictions")
        assert 0 < found["log_loss"].value < 0.8
        estimate = found["estimated_log_loss"]
        assert "320 held-out rows, and to know what rows lose takes 500" in estimate.unknown
        assert not estimate.HasField("value")
        assert found["prediction_drift"].value < 0.5

        async def compared() -> Any:
            audit = await world.trimtab.audit_skew("classes")
            return audit if audit.rows == world.replay.tally.predictions else None

        audit = await eventually(compared, what="every prediction compared")
        assert (audit.mismatched, audit.rows_of_old_features, audit.rows_without_event) == (0, 0, 0), audit
        assert {feature.name for feature in audit.features} >= set(FEATURES)
