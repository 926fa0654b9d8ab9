"""Alerts reach people: each sink is told until it has taken it, once, and not while there is a silence."""

import asyncio
import hashlib
import hmac
import itertools
import json
import uuid
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

import aiohttp
import pytest
from aiohttp import web
from trimtab_contracts.monitoring.v1 import monitoring_pb2 as pb
from trimtab_monitoring import messages
from trimtab_monitoring.alertstore import PostgresAlerts
from trimtab_monitoring.errors import BadSilence, BadSinks, MessageRefused, UnknownSilence, UnknownSubject
from trimtab_monitoring.sinks import SIGNATURE, sinks
from trimtab_monitoring.testing import MemoryAlerts
from trimtab_monitoring.usecases.alerting import Alerting, AlertStore
from trimtab_monitoring.usecases.entities import Alert, Silence
from trimtab_runtime.clock import ManualClock
from trimtab_runtime.errors import Unavailable
from trimtab_runtime.postgres import open_pool

NOW = 1_700_000_000_000
MINUTE = 60_000
FIRED = Alert("e/drift", "m", "warning", "drift", "x moved by 0.3 <a & b>.", NOW, "e/drift")
OVER = replace(FIRED, id="e/drift/resolved", sentence="It is over.", at_ms=NOW + 1, resolved=True)
Make = Callable[..., Any]


class Ear:
    """A sink that remembers what it was told, or takes nothing."""

    def __init__(self) -> None:
        self.told: list[list[str]] = []
        self.deaf = False
        self.refused = ""

    async def send(self, alerts: Sequence[Alert]) -> None:
        if self.deaf:
            raise Unavailable("sink 'ops' answers 503: full")
        if self.refused in {alert.id for alert in alerts}:
            raise MessageRefused("sink 'ops' answers 400: what is this")
        self.told.append([alert.id for alert in alerts])


class Desk:
    """Alerting on a store, driven by hand."""

    def __init__(self, store: AlertStore, specs: Any) -> None:
        self.store, self.clock = store, ManualClock(NOW)
        self.ops, self.pager = Ear(), Ear()
        self.specs = specs
        self.alerting = Alerting(store, specs, {"ops": self.ops, "pager": self.pager}, self.clock)

    async def after(self, milliseconds: int) -> None:
        self.clock.advance(milliseconds)
        while await self.alerting.tell():
            pass

    async def silence(self, minutes: int, *, kind: str = "", subject: str = "m") -> Silence:
        asked = Silence(0, subject, kind, self.clock.now_ms() + minutes * MINUTE, "ann", "a known outage")
        return await self.alerting.silence(asked)


@pytest.fixture(params=["memory", pytest.param("postgres", marks=pytest.mark.real)])
async def desk(request: pytest.FixtureRequest, world: Any) -> AsyncIterator[Desk]:
    if request.param == "memory":
        yield Desk(MemoryAlerts(), world.specs)
        return
    dsn, schema = request.getfixturevalue("postgres_dsn"), f"monitoring_{uuid.uuid4().hex[:8]}"
    async with open_pool(dsn, schema, package="trimtab_monitoring") as pool:
        yield Desk(PostgresAlerts(pool), world.specs)
        async with pool.acquire() as connection:
            await connection.execute(f'DROP SCHEMA "{schema}" CASCADE')


async def test_every_sink_is_told_once_however_often_an_alert_is_heard(desk: Desk) -> None:
    await desk.alerting.heard(FIRED)
    await desk.after(5_000)
    await desk.alerting.heard(FIRED)
    await desk.after(5_000)

    assert desk.ops.told == desk.pager.told == [["e/drift"]]
    [held] = await desk.alerting.alerts("", open_only=True)
    assert (held.alert, held.resolved_ms, held.waiting, held.fault) == (FIRED, None, (), "")


async def test_what_comes_about_one_subject_within_seconds_is_told_together(desk: Desk) -> None:
    for alert in (
        FIRED,
        replace(FIRED, id="other", subject="n", occasion=""),
        replace(FIRED, id="b", at_ms=NOW - 5),
    ):
        await desk.alerting.heard(alert)
    assert await desk.alerting.tell() == 0

    await desk.after(5_000)

    assert sorted(desk.ops.told) == [["b", "e/drift"], ["other"]]


async def test_what_comes_about_many_subjects_at_once_is_told_in_one_message_however_long_a_sink_was_away(
    desk: Desk,
) -> None:
    many = [replace(FIRED, id=f"{at}", subject=f"m{at:02}", occasion=f"{at}") for at in range(40)]
    desk.ops.deaf = True
    for alert in many:
        await desk.alerting.heard(alert)
    await desk.after(5_000)
    assert desk.pager.told == [[alert.id for alert in many]]

    for _ in range(4):
        await desk.after(15 * MINUTE)
    desk.ops.deaf = False
    await desk.alerting.heard(OVER)  # of what is not open
    await desk.alerting.heard(replace(many[7], id="over", resolved=True, at_ms=NOW + 1))
    await desk.after(15 * MINUTE)

    assert desk.ops.told == [[*map(str, range(8)), "over", *map(str, range(8, 40))]]


async def test_one_of_many_that_a_sink_refuses_is_told_apart_and_tried_again(desk: Desk) -> None:
    desk.ops.refused = "13"
    for at in range(40):
        await desk.alerting.heard(replace(FIRED, id=f"{at}", subject=f"m{at:02}", occasion=f"{at}"))
    await desk.after(5_000)

    assert sorted(itertools.chain(*desk.ops.told)) == sorted(f"{at}" for at in range(40) if at != 13)
    assert len(desk.ops.told) < 10
    [waits] = [held for held in await desk.alerting.alerts("", open_only=True) if held.waiting]
    assert (waits.alert.id, waits.fault) == ("13", "sink 'ops' answers 400: what is this")
    desk.ops.refused = ""
    await desk.after(5_000)
    assert desk.ops.told[-1] == ["13"]


async def test_what_is_told_with_others_that_were_tried_a_hundred_times_is_not_given_up_with_them(
    desk: Desk,
) -> None:
    desk.ops.deaf = True
    await desk.alerting.heard(FIRED)
    for _ in range(99):
        await desk.after(15 * MINUTE)
    for at in range(12):
        await desk.alerting.heard(replace(FIRED, id=f"{at}", subject=f"m{at}", occasion=f"{at}"))
    await desk.after(15 * MINUTE)
    desk.ops.deaf = False
    await desk.after(15 * MINUTE)

    assert sorted(itertools.chain(*desk.ops.told)) == sorted(f"{at}" for at in range(12))


async def test_a_sink_that_takes_nothing_is_told_later_and_holds_up_no_other(desk: Desk) -> None:
    desk.ops.deaf = True
    await desk.alerting.heard(FIRED)
    await desk.after(5_000)
    await desk.alerting.heard(OVER)
    await desk.after(5_000)

    [held] = await desk.alerting.alerts("m", open_only=False)
    assert (held.waiting, held.fault) == (("ops",), "sink 'ops' answers 503: full")
    assert desk.pager.told == [["e/drift"], ["e/drift/resolved"]]
    desk.ops.deaf = False
    await desk.after(10 * MINUTE)
    assert [*itertools.chain(*desk.ops.told)] == ["e/drift", "e/drift/resolved"]


async def test_an_alert_that_is_over_is_told_so_and_no_longer_open(desk: Desk) -> None:
    await desk.alerting.heard(FIRED)
    await desk.after(5_000)
    await desk.alerting.heard(OVER)
    await desk.after(5_000)

    assert desk.ops.told == [["e/drift"], ["e/drift/resolved"]]
    assert await desk.alerting.alerts("", open_only=True) == []
    [held] = await desk.alerting.alerts("m", open_only=False)
    assert held.resolved_ms == NOW + 1
    await desk.alerting.heard(replace(OVER, id="over again", at_ms=NOW + 5))
    await desk.after(5_000)
    assert len(desk.ops.told) == 2, "what is not open cannot be over"
    await desk.alerting.heard(replace(FIRED, id="again", at_ms=NOW + 9))
    assert len(await desk.alerting.alerts("", open_only=True)) == 1
    assert await desk.alerting.alerts("n", open_only=False) == []


async def test_at_the_end_of_a_silence_what_still_stands_is_told_and_nothing_of_what_is_over(
    desk: Desk,
) -> None:
    silence = await desk.silence(30)
    await desk.alerting.heard(FIRED)
    await desk.alerting.heard(replace(FIRED, id="stands", occasion="stands"))
    await desk.alerting.heard(replace(FIRED, id="n", subject="n", occasion=""))
    await desk.after(MINUTE)
    await desk.alerting.heard(OVER)
    await desk.after(MINUTE)
    assert desk.ops.told == [["n"]]
    assert await desk.alerting.silences() == [silence]

    await desk.after(30 * MINUTE)

    assert desk.ops.told == [["n"], ["stands"]]
    assert await desk.alerting.silences() == []


async def test_what_a_sink_was_told_before_a_silence_it_is_told_the_end_of_after_it(desk: Desk) -> None:
    await desk.alerting.heard(FIRED)
    await desk.after(MINUTE)
    silence = await desk.silence(30)
    for number in range(2):  # the last time that it is over is told, and nothing of when it was on again
        later = NOW + MINUTE * (number + 1)
        await desk.alerting.heard(replace(OVER, id=f"over {number}", at_ms=later))
        await desk.alerting.heard(replace(FIRED, id=f"again {number}", at_ms=later + 1))
        await desk.after(MINUTE)
    await desk.alerting.heard(replace(OVER, id="over at last", at_ms=NOW + 5 * MINUTE))
    await desk.after(MINUTE)
    assert desk.ops.told == [["e/drift"]]

    await desk.alerting.end_silence(silence.id)
    await desk.after(0)

    assert desk.ops.told == [["e/drift"], ["over at last"]]
    await desk.silence(30)
    await desk.alerting.heard(replace(FIRED, id="unheard", at_ms=NOW + 6 * MINUTE))
    await desk.alerting.heard(replace(OVER, id="over unheard", at_ms=NOW + 7 * MINUTE))
    await desk.after(MINUTE)
    await desk.after(40 * MINUTE)
    assert len(desk.ops.told) == 2


async def test_of_what_a_sink_refused_before_a_silence_it_hears_nothing_once_it_is_over(desk: Desk) -> None:
    desk.ops.deaf = True
    await desk.alerting.heard(FIRED)
    await desk.after(2_000)
    silence = await desk.silence(30)
    desk.ops.deaf = False
    await desk.after(MINUTE)
    await desk.alerting.heard(OVER)
    await desk.after(MINUTE)

    await desk.alerting.end_silence(silence.id)
    await desk.after(40 * MINUTE)

    assert desk.ops.told == []


async def test_an_alert_of_a_kind_that_is_not_known_here_is_told_as_any_other(desk: Desk) -> None:
    await desk.alerting.heard(
        messages.raised(pb.Alert(id="n", subject="m", kind="of a newer service", severity="warning"))
    )
    await desk.after(MINUTE)

    assert desk.ops.told == [["n"]]
    assert [held.alert.kind for held in await desk.alerting.alerts("m", open_only=True)] == [
        "of a newer service"
    ]


async def test_an_end_never_overtakes_its_beginning(desk: Desk) -> None:
    desk.ops.deaf = True
    await desk.alerting.heard(FIRED)
    await desk.after(2_000)
    desk.ops.deaf = False
    await desk.alerting.heard(OVER)
    await desk.after(2_000)
    assert (desk.ops.told, desk.pager.told[1:]) == ([], [["e/drift/resolved"]])

    await desk.after(MINUTE)

    assert [*itertools.chain(*desk.ops.told)] == ["e/drift", "e/drift/resolved"]


async def test_an_end_waits_for_its_beginning_though_the_monitor_that_was_telling_it_has_died(
    desk: Desk,
) -> None:
    await desk.alerting.heard(FIRED)
    desk.clock.advance(3_000)
    begun = await desk.store.take_due(desk.clock.now_ms(), desk.clock.now_ms() + MINUTE)
    await desk.store.delivered([each for each in begun if each.sink == "pager"])  # and then it is killed

    await desk.alerting.heard(OVER)
    await desk.after(3_000)
    assert (desk.ops.told, desk.pager.told) == ([], [["e/drift/resolved"]])
    await desk.after(MINUTE)
    assert desk.ops.told == [["e/drift", "e/drift/resolved"]]


async def test_monitors_that_tell_side_by_side_keep_a_beginning_before_its_end(desk: Desk) -> None:
    await desk.alerting.heard(FIRED)
    await desk.alerting.heard(OVER)
    desk.clock.advance(3_000)
    taken = await asyncio.gather(
        *(desk.store.take_due(desk.clock.now_ms(), desk.clock.now_ms() + MINUTE) for _ in range(8))
    )

    found = [
        [each.alert.id for each in some if each.sink == sink] for some in taken for sink in ("ops", "pager")
    ]
    assert [some for some in found if some] == [["e/drift", "e/drift/resolved"]] * 2, "each once, both by one"


async def test_a_silence_may_be_of_one_kind_and_be_ended(desk: Desk) -> None:
    silence = await desk.silence(30, kind="drift")
    await desk.alerting.heard(FIRED)
    await desk.alerting.heard(replace(FIRED, id="back", kind="rollback", occasion=""))
    await desk.after(MINUTE)
    assert desk.ops.told == [["back"]]

    await desk.alerting.end_silence(silence.id)
    await desk.after(MINUTE)

    assert desk.ops.told == [["back"], ["e/drift"]]
    with pytest.raises(UnknownSilence, match=f"there is no silence {silence.id}"):
        await desk.alerting.end_silence(silence.id)


async def test_a_silence_may_be_of_several_subjects(desk: Desk) -> None:
    await desk.alerting.heard(replace(FIRED, id="busy", subject="busy", occasion="b"))
    with pytest.raises(UnknownSubject, match=r"no model, source or table 'trip-\*'"):
        await desk.silence(30, subject="trip-*")
    await desk.alerting.heard(replace(FIRED, id="0", subject="trip-a", occasion="0"))
    silence = await desk.silence(30, subject="trip-*")
    await desk.silence(30, subject="*" * 40 + "y")
    for number, subject in enumerate(("trip-b", "a-trip-b", "trip")):
        await desk.alerting.heard(replace(FIRED, id=subject, subject=subject, occasion=f"o{number}"))
    await desk.after(MINUTE)

    assert sorted(desk.ops.told) == [["a-trip-b"], ["trip"]]
    await desk.alerting.end_silence(silence.id)
    await desk.after(0)
    assert sorted(desk.ops.told[2:]) == [["0"], ["trip-b"]]
    assert (await desk.silence(30, subject="a*s")).subject == "a*s", "source 'asks' is one"


async def test_a_silence_of_nothing_is_refused(desk: Desk) -> None:
    with pytest.raises(BadSilence, match="until is over already"):
        await desk.silence(0)
    with pytest.raises(BadSilence, match="subject is empty"):
        await desk.silence(5, subject="")
    with pytest.raises(BadSilence, match="kind 'drfit' is none that an alert has: use one of drift, rule, "):
        await desk.silence(5, kind="drfit")
    with pytest.raises(
        UnknownSubject, match="no model, source or table 'ask', nor an alert about it: did you mean 'asks'"
    ):
        await desk.silence(5, subject="ask")
    await desk.alerting.heard(replace(FIRED, subject="ask"))
    assert (await desk.silence(5, subject="ask")).id
    assert (await desk.silence(5, subject="asks")).id


async def test_a_model_says_which_sinks_are_told_and_from_which_severity(
    desk: Desk, make_model: Make
) -> None:
    desk.specs.models["m"] = make_model(alerts={"to": ["pager", "gone"], "at_least": "warning"})

    await desk.alerting.heard(FIRED)
    await desk.alerting.heard(replace(FIRED, id="small", severity="info"))
    await desk.after(MINUTE)

    assert (desk.ops.told, desk.pager.told) == ([], [["e/drift"]])
    assert len(await desk.alerting.alerts("m", open_only=True)) == 1, "the newest of the occasion"


async def test_a_sink_that_was_taken_out_of_the_setting_is_not_waited_for(desk: Desk) -> None:
    await desk.alerting.heard(FIRED)
    desk.alerting = Alerting(desk.store, desk.specs, {"pager": desk.pager}, desk.clock)

    await desk.after(MINUTE)

    assert desk.pager.told == [["e/drift"]]
    [held] = await desk.alerting.alerts("m", open_only=True)
    assert held.waiting == ()


class Receiver:
    """A real HTTP server."""

    def __init__(self) -> None:
        self.heard: list[tuple[str, Any, dict[str, str], bytes]] = []
        self.status = 200

    async def answer(self, request: web.Request) -> web.Response:
        body = await request.read()
        self.heard.append((request.path, json.loads(body), dict(request.headers), body))
        return web.Response(status=self.status, text="said no" if self.status != 200 else "ok")


@asynccontextmanager
async def receiving(receiver: Receiver) -> AsyncIterator[str]:
    app = web.Application()
    app.router.add_post("/{path:.*}", receiver.answer)
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    assert site._server is not None
    port = site._server.sockets[0].getsockname()[1]  # type: ignore[attr-defined]
    try:
        yield f"http://127.0.0.1:{port}"
    finally:
        await runner.cleanup()


async def test_each_kind_of_sink_speaks_its_receivers_language() -> None:
    receiver = Receiver()
    async with receiving(receiver) as url, aiohttp.ClientSession() as session:
        setting = f"hook=webhook:{url}/hook ops=slack:{url}/slack am=alertmanager:{url}/"
        found = sinks(setting, "secret", session, ManualClock(NOW))
        for name in ("hook", "ops", "am"):
            await found[name].send([FIRED, OVER])
        many = [replace(FIRED, subject=f"m<{at}>") for at in range(22)]
        for name in ("hook", "ops"):
            await found[name].send([*many, many[0], replace(OVER, subject="n")])

    (at, hook, headers, body), (_, slack, again, _), (where, labelled, _, _), *of_many = receiver.heard
    assert (hook["subject"], of_many[0][1]["subject"], len(of_many[0][1]["alerts"])) == ("m", "", 24)
    assert of_many[1][1]["text"].splitlines() == [
        "*23 have something to look at*, as `trimtab alert list` tells",
        f":warning: warning, drift, of 22: {', '.join(f'm&lt;{at}&gt;' for at in range(20))} and 2 more",
        ":white_check_mark: resolved, drift, of 1: n",
    ]
    assert (at, where) == ("/hook", "/api/v2/alerts")
    assert [(each["status"], each["occasion"]) for each in hook["alerts"]] == [
        ("firing", "e/drift"),
        ("resolved", "e/drift"),
    ]
    seconds, signed = (part.partition("=")[2] for part in headers[SIGNATURE].split(","))
    expected = hmac.new(b"secret", seconds.encode() + b"." + body, hashlib.sha256).hexdigest()
    assert (int(seconds), signed) == (NOW // 1000, expected)
    assert headers["Idempotency-Key"] == again["Idempotency-Key"]
    assert slack["text"].splitlines() == [
        "*m*",
        ":warning: warning, drift: x moved by 0.3 &lt;a &amp; b&gt;.",
        ":white_check_mark: resolved, drift: It is over.",
    ]
    assert labelled[0]["labels"] == labelled[1]["labels"]
    assert labelled[0]["labels"]["alertname"] == "drift"
    assert labelled[0]["endsAt"] > labelled[0]["startsAt"]
    assert "startsAt" not in labelled[1]


async def test_a_receiver_that_refuses_or_is_away_is_unavailable_and_its_address_stays_secret() -> None:
    receiver = Receiver()
    async with aiohttp.ClientSession() as session:
        async with receiving(receiver) as url:
            sink = sinks(f"ops=slack:{url}/T0/secret", "", session, ManualClock(NOW))["ops"]
            for status, refused in ((403, False), (429, False), (500, False), (400, True), (413, True)):
                receiver.status = status
                with pytest.raises(Unavailable, match=f"sink 'ops' answers {status}: said no") as caught:
                    await sink.send([FIRED])
                assert isinstance(caught.value, MessageRefused) is refused
        with pytest.raises(Unavailable, match="sink 'ops' does not answer") as caught:
            await sink.send([FIRED])

    assert "secret" not in str(caught.value)


@pytest.mark.parametrize(
    "setting", ["ops", "ops=slack", "ops=mail:http://a", "a=slack:http://a b=slack:ftp://b"]
)
async def test_a_setting_that_names_no_sink_says_where(setting: str) -> None:
    place = len(setting.split())
    async with aiohttp.ClientSession() as session:
        with pytest.raises(
            BadSinks, match=f"at place {place}: write that, with kind webhook, slack or alertmanager"
        ):
            sinks(setting, "", session, ManualClock(NOW))
