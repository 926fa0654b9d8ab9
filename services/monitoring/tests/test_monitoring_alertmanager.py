"""A real Alertmanager takes our alerts: it groups them, tells that they are over, and is silent where it is told to be.

`make alertmanager` builds it from the Go proxy; where it is not there, these tests are skipped.
"""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from aiohttp import web
from trimtab_monitoring.sinks import sinks
from trimtab_monitoring.usecases.alerting import Sink
from trimtab_monitoring.usecases.entities import Alert
from trimtab_runtime.clock import SystemClock, iso
from trimtab_runtime.testing import eventually
from trimtab_stack import ports

BINARY = Path(__file__).parents[3] / ".tools" / "alertmanager"
pytestmark = [
    pytest.mark.real,
    pytest.mark.skipif(not BINARY.exists(), reason="no Alertmanager is here: `make alertmanager` builds one"),
]
CONFIG = """
route: {{receiver: hook, group_by: [subject], group_wait: 200ms, group_interval: 300ms, repeat_interval: 1h}}
receivers: [{{name: hook, webhook_configs: [{{url: "{hook}", send_resolved: true}}]}}]
"""
Group = tuple[str, set[tuple[str, str]]]


class Ear:
    """Hears what Alertmanager tells: of each message the subject, and each alert's status and occasion."""

    def __init__(self) -> None:
        self.told: list[Group] = []

    async def answer(self, request: web.Request) -> web.Response:
        said = await request.json()
        alerts = {(each["status"], each["labels"]["occasion"]) for each in said["alerts"]}
        self.told.append((said["groupLabels"]["subject"], alerts))
        return web.Response()

    async def heard(self, subject: str, *alerts: tuple[str, str]) -> None:
        """Wait until a message about a subject was of exactly these alerts."""

        async def probe() -> bool:
            return (subject, set(alerts)) in self.told

        await eventually(probe, what=f"{alerts} of {subject} in {self.told}")


@asynccontextmanager
async def alertmanager(folder: Path, ear: Ear, session: aiohttp.ClientSession) -> AsyncIterator[str]:
    app = web.Application()
    app.router.add_post("/hook", ear.answer)
    runner = web.AppRunner(app)
    await runner.setup()
    hook, port = ports.choose(), ports.choose()
    await web.TCPSite(runner, "127.0.0.1", hook).start()
    (folder / "am.yml").write_text(CONFIG.format(hook=f"http://127.0.0.1:{hook}/hook"))
    url = f"http://127.0.0.1:{port}"
    with (folder / "log").open("wb") as log:
        process = await asyncio.create_subprocess_exec(
            str(BINARY), f"--config.file={folder}/am.yml", f"--storage.path={folder}/data",
            f"--web.listen-address=127.0.0.1:{port}", "--cluster.listen-address=", stdout=log, stderr=log,
        )  # fmt: skip

    async def ready() -> bool:
        try:
            async with session.get(f"{url}/-/ready") as answer:
                return answer.status == 200
        except aiohttp.ClientError:  # it has not opened its door yet
            return False

    try:
        await eventually(ready, what="Alertmanager")
        yield url
    finally:
        process.terminate()
        await process.wait()
        await runner.cleanup()
        print((folder / "log").read_text()[-3_000:])


def an_alert(occasion: str, subject: str = "m") -> Alert:
    now_ms = time.time_ns() // 1_000_000
    return Alert(f"{occasion}/1", subject, "warning", "drift", "x moved by 0.3.", now_ms - 1_000, occasion)


def over(alert: Alert) -> Alert:
    return replace(alert, id=f"{alert.id}/resolved", at_ms=alert.at_ms + 500, resolved=True)


async def test_alertmanager_groups_what_is_told_says_when_it_is_over_and_keeps_a_silence(
    tmp_path: Path,
) -> None:
    ear = Ear()
    async with aiohttp.ClientSession() as session, alertmanager(tmp_path, ear, session) as url:
        sink: Sink = sinks(f"am=alertmanager:{url}", "", session, SystemClock())["am"]
        await _silence(session, url, "quiet")
        first, second = an_alert("e1"), an_alert("e2")

        await sink.send([an_alert("e3", "quiet")])
        await sink.send([first, second])
        await ear.heard("m", ("firing", "e1"), ("firing", "e2"))
        await sink.send([first])  # a repeated request, as after an answer that was lost
        await sink.send([over(first)])
        await ear.heard("m", ("resolved", "e1"), ("firing", "e2"))
        await sink.send([over(second)])
        await ear.heard("m", ("resolved", "e2"))

        async def suppressed() -> bool:
            async with session.get(f"{url}/api/v2/alerts") as answer:
                states = {it["labels"]["occasion"]: it["status"]["state"] for it in await answer.json()}
            return states == {"e3": "suppressed"}

        await eventually(suppressed, what="the silenced alert alone")
    assert {subject for subject, _ in ear.told} == {"m"}


async def _silence(session: aiohttp.ClientSession, url: str, subject: str) -> None:
    now_ms = SystemClock().now_ms()
    silence: dict[str, Any] = {
        "matchers": [{"name": "subject", "value": subject, "isRegex": False, "isEqual": True}],
        "startsAt": iso(now_ms), "endsAt": iso(now_ms + 3_600_000), "createdBy": "ann", "comment": "known",
    }  # fmt: skip
    async with session.post(f"{url}/api/v2/silences", json=silence) as answer:
        assert answer.status == 200, await answer.text()
