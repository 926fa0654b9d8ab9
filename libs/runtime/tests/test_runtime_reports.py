"""What is asked of Evidently, and what it must not do beside that."""

import socket
from typing import Any

import pandas as pd
import pytest
from trimtab_runtime.reports import report


def test_a_report_tells_nobody_that_it_is_made(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("DO_NOT_TRACK", raising=False)
    called: list[Any] = []
    monkeypatch.setattr(socket.socket, "connect", lambda _, address: called.append(address))

    made = report(["DataSummaryPreset"], pd.DataFrame({"x": [1.0, 2.0]}), numerical_columns=["x"])

    from evidently.telemetry import event_logger

    assert "x" in made.json()
    assert not event_logger.is_enabled()
    assert called == []
