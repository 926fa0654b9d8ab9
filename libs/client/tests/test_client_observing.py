"""`trimtab metrics` and `trimtab report MODEL`, and both clients, against a real server of the protocol."""

import ast
import itertools
import json
import re
from collections.abc import Iterator
from concurrent import futures
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.protobuf import json_format
from trimtab import cli
from trimtab.client import SERVICES, Trimtab
from trimtab.observing import Observer
from trimtab_contracts.monitoring.v1 import monitoring_pb2 as monitoring
from trimtab_contracts.monitoring.v1.monitoring_pb2 import Metric
from trimtab_contracts.monitoring.v1.monitoring_pb2_grpc import (
    MonitoringServicer,
    add_MonitoringServicer_to_server,
)
from trimtab_runtime.clock import parse_iso, to_timestamp
from trimtab_runtime.errors import NotFound, Unavailable

HOUR = 3_600_000
NOON = parse_iso("2020-03-15T12:00:00Z")


def metric(hour: int, name: str = "mae", **more: Any) -> Metric:
    given = {"model": "m", "version": 3, "value": 4.5, "rows": 500, **more}
    return Metric(
        id=f"{name}/{hour}",
        name=name,
        window_from=to_timestamp(NOON + (hour - 1) * HOUR),
        window_to=to_timestamp(NOON + hour * HOUR),
        **given,
    )


TOLD = [metric(0, threshold=6.0), metric(1, "null_share", feature="request.[x]"), metric(2, value=7.0)]

DAY = 24 * HOUR


def loop(id: str, state: str, *, drift: int, live: int, **more: Any) -> monitoring.Loop:
    """Make a loop by the days of its drift and its version."""
    return monitoring.Loop(
        id=id,
        model="m",
        state=state,
        command_id="c",
        drift_at=to_timestamp(NOON + drift * DAY),
        settled_at=to_timestamp(NOON + live * DAY),
        steps={"triggered": to_timestamp(0), "live": to_timestamp(60_000), state: to_timestamp(60_000)},
        **more,
    )


DECISIONS = [
    monitoring.Decided(at=to_timestamp(NOON), cause="quality", sentence="x is null."),
    monitoring.Decided(at=to_timestamp(NOON + HOUR), cause="called", sentence="It drifted."),
]
LOOPS = [
    loop("good", "live", drift=0, live=1, decisions=DECISIONS),
    loop("bad", "rolled_back", drift=8, live=10, taken_back_at=to_timestamp(NOON + 13 * DAY)),
]


class Servicer(MonitoringServicer):
    """Tells the metrics; a watch breaks off after each, and goes on behind its position. Knows two models and a source."""

    def __init__(self) -> None:
        self.asked: list[Any] = []

    def Query(self, request: monitoring.QueryRequest, context: Any) -> Iterator[monitoring.QueryResponse]:
        self._know(request.filter.model or request.filter.source, context)
        self.asked.append(request)
        names = request.filter.names
        found = [each for each in TOLD if not names or each.name in names][-request.limit :]
        yield from (monitoring.QueryResponse(metrics=[each]) for each in found)

    def Watch(self, request: monitoring.WatchRequest, context: Any) -> Iterator[monitoring.WatchResponse]:
        self._know(request.filter.model or request.filter.source, context)
        self.asked.append(request)
        yield monitoring.WatchResponse(position=request.after)
        if request.after == len(TOLD):
            context.abort(grpc.StatusCode.NOT_FOUND, "that was all")
        yield monitoring.WatchResponse(metrics=[TOLD[request.after]], position=request.after + 1)
        context.abort(grpc.StatusCode.UNAVAILABLE, "a monitor ends")

    def MakeReport(
        self, request: monitoring.MakeReportRequest, context: Any
    ) -> Iterator[monitoring.MakeReportResponse]:
        self._know(request.model, context)
        self.asked.append(request)
        about = monitoring.MakeReportResponse.About(
            version=3, rows=request.rows, first=to_timestamp(NOON), last=to_timestamp(NOON + HOUR)
        )
        yield monitoring.MakeReportResponse(about=about)
        for piece in (b"<html>", b"</html>"):
            yield monitoring.MakeReportResponse(html=piece)
        yield monitoring.MakeReportResponse(json=b"{}")

    def GetModelHealth(
        self, request: monitoring.GetModelHealthRequest, context: Any
    ) -> monitoring.ModelHealth:
        return monitoring.ModelHealth(model=request.model, watermark=to_timestamp(NOON))

    def ListLoops(self, request: monitoring.ListLoopsRequest, context: Any) -> monitoring.ListLoopsResponse:
        return monitoring.ListLoopsResponse(loops=LOOPS)

    def GetLoop(self, request: monitoring.GetLoopRequest, context: Any) -> monitoring.Loop:
        return next(loop for loop in LOOPS if loop.id == request.id)

    def _know(self, model: str, context: Any) -> None:
        if model not in ("m", "trip-minutes", "trips"):
            context.abort(grpc.StatusCode.NOT_FOUND, f"there is no model {model!r}")


@pytest.fixture
def door(monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[Servicer, str]]:
    servicer, server = Servicer(), grpc.server(futures.ThreadPoolExecutor(4))
    add_MonitoringServicer_to_server(servicer, server)
    address = f"127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}"
    server.start()
    for service in SERVICES:
        monkeypatch.setenv(f"TRIMTAB_{service.upper()}_ADDRESS", address)
    monkeypatch.setattr("trimtab.observing._AGAIN_S", 0.0)
    yield servicer, address
    server.stop(0).wait()


def trimtab(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    """Run the command in this process, and return what it printed."""
    with pytest.raises(SystemExit) as end:
        cli.app(list(words))
    assert not end.value.code
    return capsys.readouterr().out


async def test_metrics_are_a_table_with_a_column_for_each_field(door: tuple[Servicer, str]) -> None:
    async with Trimtab.connect() as client:
        found = await client.metrics("m", limit=2, since_ms=NOON, names=["mae"], features=[""], version=3)
        with pytest.raises(NotFound, match="there is no model 'n'"):
            await client.metrics("n")

    table = found.arrow()
    assert table.column_names == [field.name for field in Metric.DESCRIPTOR.fields]
    assert table["threshold"].to_pylist() == [6.0, None]
    assert table["window_to"][0].as_py().isoformat() == "2020-03-15T12:00:00+00:00"
    assert found.pandas()["value"].tolist() == [4.5, 7.0]
    assert json_format.MessageToDict(door[0].asked[0]) == {
        "limit": 2,
        "filter": {
            "model": "m",
            "names": ["mae"],
            "features": [""],
            "version": "3",
            "since": "2020-03-15T12:00:00Z",
        },
    }
    assert found.arrow().schema == type(found).of([]).arrow().schema


async def test_a_watch_goes_on_where_it_broke_off_with_and_without_an_event_loop(
    door: tuple[Servicer, str],
) -> None:
    async with Trimtab.connect() as client:
        watch = client.watch_metrics("m")
        assert [await anext(watch) for _ in TOLD] == TOLD
        with pytest.raises(NotFound, match="that was all"):
            await anext(watch)
    assert [request.HasField("after") for request in door[0].asked] == [False, True, True, True]

    with Observer.connect() as observer:
        assert list(itertools.islice(observer.watch_metrics("m"), 3)) == TOLD
        assert observer.metrics("m", limit=3).messages == tuple(TOLD)
        assert observer.report("m", rows=7).html == b"<html></html>"


async def test_the_code_on_the_page_runs(
    door: tuple[Servicer, str], capsys: pytest.CaptureFixture[str]
) -> None:
    page = (Path(__file__).parents[3] / "docs/metrics.md").read_text()
    [code] = re.findall(r"```python\n(from trimtab.client .*?)```", page, re.DOTALL)
    names: dict[str, Any] = {}
    running = eval(compile(code, "metrics.md", "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT), names)

    with pytest.raises(NotFound, match="that was all"):
        await running

    assert names["frame"]["value"].tolist() == [4.5, 7.0]
    assert capsys.readouterr().out.splitlines() == ["mae  4.5", "null_share request.[x] 4.5", "mae  7.0"]


def test_a_watch_of_what_has_been_away_for_too_long_ends() -> None:
    with (
        Observer.connect("127.0.0.1:9") as observer,
        pytest.raises(Unavailable, match="monitoring cannot answer"),
    ):
        next(observer.watch_metrics("m", patience_s=-1))


def test_the_command_shows_metrics_as_a_table_and_as_json(
    door: tuple[Servicer, str], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    shown = trimtab(capsys, "metrics", "m", "--since", "7d", "--until", "2020-03-16")
    assert "request.[x]" in shown
    assert "2020-03-15T11:00 to" in shown
    request = door[0].asked[-1]
    assert request.limit == 50
    assert request.filter.since == to_timestamp(NOON - 7 * 24 * HOUR), "7d before what is closed"
    assert request.filter.until == to_timestamp(NOON + 12 * HOUR)

    told = json.loads(trimtab(capsys, "metrics", "m", "--name", "mae", "--json"))
    assert [(each["value"], each.get("threshold")) for each in told] == [(4.5, 6.0), (7.0, None)]
    assert "no metric of m matches" in trimtab(capsys, "metrics", "m", "--name", "drift")


def test_the_command_tells_what_is_unknown_and_whose_answers_a_metric_is_of(
    door: tuple[Servicer, str], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    why = "Unknown of version 3: too few rows."
    unknown = metric(0, "estimated_mae", value=None, unknown=why)
    estimate = metric(0, "estimated_mae", low=3.25, high=5.75)
    of_arm = metric(1, arm="challenger", feature="request.zone", slice="7", value=0.0)
    of_part = metric(1, "drift", feature="request.km", slice_of="request.zone", slice="7", value=0.25)
    monkeypatch.setenv("COLUMNS", "200")
    assert not {"arm", "slice", "between", "unknown"} & set(trimtab(capsys, "metrics", "m").split())
    monkeypatch.setitem(globals(), "TOLD", [unknown, unknown, estimate, of_arm, of_part])

    header, *rows = (
        [cell.strip() for cell in re.split("[│┃]", line)[1:-1]]
        for line in trimtab(capsys, "metrics", "m", "--arm", "challenger", "--slice", "", "--slice", "7").splitlines()
        if line[:1] in ("│", "┃")
    )  # fmt: skip

    shown = [{name: row[header.index(name)] for name in ("arm", "slice", "value", "between")} for row in rows]
    assert shown == [
        {"arm": "-", "slice": "-", "value": "unknown", "between": "-"},
        {"arm": "-", "slice": "-", "value": "unknown", "between": "-"},
        {"arm": "-", "slice": "-", "value": "4.5", "between": "3.25 to 5.75"},
        {"arm": "challenger", "slice": "7", "value": "0", "between": "-"},
        {"arm": "-", "slice": "request.zone = 7", "value": "0.25", "between": "-"},
    ]
    asked = door[0].asked[-1].filter
    assert (list(asked.arms), list(asked.slices)) == (["challenger"], ["", "7"])
    assert trimtab(capsys, "metrics", "m").count(why) == 1
    with pytest.raises(NotFound, match="that was all"):
        cli.app(["metrics", "m", "--watch"])
    assert capsys.readouterr().out.splitlines() == [
        f"2020-03-15T12:00  version 3  estimated_mae unknown: {why}",
        f"2020-03-15T12:00  version 3  estimated_mae unknown: {why}",
        "2020-03-15T12:00  version 3  estimated_mae 4.5, 3.25 to 5.75",
        "2020-03-15T13:00  version 3  challenger  mae of request.zone = 7 0",
        "2020-03-15T13:00  version 3  drift of request.km where request.zone = 7 0.25",
    ]


def test_the_command_shows_the_hours_of_a_source(
    door: tuple[Servicer, str], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    nulls = Metric(
        id="s", model="trips", name="hourly_null_share", feature="x", value=0.4, high=0.2, held=False, rows=90,
        window_from=to_timestamp(NOON), window_to=to_timestamp(NOON + HOUR),
    )  # fmt: skip
    monkeypatch.setitem(globals(), "TOLD", [nulls])

    shown = trimtab(capsys, "metrics", "--source", "trips", "--since", "7d")

    assert [word in shown for word in ("2020-03-15T12:00", "<= 0.2, and is not", "version")] == [
        True,
        True,
        False,
    ]
    asked = door[0].asked[-1].filter
    assert (asked.model, asked.source, asked.since) == (
        "",
        "trips",
        to_timestamp(NOON + HOUR - 7 * 24 * HOUR),
    )


def test_the_command_watches(door: tuple[Servicer, str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(NotFound, match="that was all"):
        cli.app(["metrics", "m", "--watch"])
    assert capsys.readouterr().out.splitlines() == [
        "2020-03-15T12:00  version 3  mae 4.5, usual up to 6",
        "2020-03-15T13:00  version 3  null_share of request.[x] 4.5",
        "2020-03-15T14:00  version 3  mae 7",
    ]
    with pytest.raises(NotFound, match="that was all"):
        cli.app(["metrics", "m", "--watch", "--json"])
    assert [json.loads(line)["name"] for line in capsys.readouterr().out.splitlines()] == [
        "mae", "null_share", "mae",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        ("metrics m --watch --until 2020-03-16", "--until is for what was"),
        ("metrics m --since soon", "--since 'soon' is no time"),
        ("metrics n", "there is no model 'n'"),
        ("metrics", "name MODEL, or --source SOURCE"),
        ("metrics m --source s", "name MODEL, or --source SOURCE"),
        ("report", "name MODEL, or --source SOURCE"),
        ("report m --source s", "name MODEL, or --source SOURCE"),
        ("report m --card", "--card and --day are for a source"),
        ("report --source s --episode e", "--episode 'e' is of a model"),
        ("report m --from never", "--from 'never' is no time"),
        ("report n", "there is no model 'n'"),
        ("report m -o /proc/x.html", "cannot be written"),
    ],
)
def test_what_makes_no_sense_is_refused_in_a_sentence(
    door: tuple[Servicer, str], words: str, sentence: str
) -> None:
    with pytest.raises(Exception, match=sentence):
        cli.app(words.split())


def test_a_models_report_is_written_where_it_is_said(
    door: tuple[Servicer, str], capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    file = tmp_path / "of" / "march.html"
    said = trimtab(
        capsys, "report", "m", "-o", str(file), "--from", "2020-03-15", "--to", "2020-03-16T00:00:00Z"
    )
    assert file.read_text() == "<html></html>"
    assert said.splitlines() == [
        "10000 predictions of version 3 of m, from 2020-03-15T12:00:00.000Z to 2020-03-15T13:00:00.000Z, beside what it was "
        "trained on",
        f"wrote {file}",
        f"wrote {tmp_path / 'of' / 'march.json'}",
    ]
    assert door[0].asked[-1].since == to_timestamp(NOON - 12 * HOUR)

    told = json.loads(trimtab(capsys, "report", "m", "--out", str(tmp_path), "--rows", "20", "--json"))
    assert (told["version"], told["rows"]) == (3, 20)
    assert told["files"] == [str(tmp_path / name) for name in ("m-3.html", "m-3.json")]

    told = json.loads(
        trimtab(capsys, "report", "m", "--out", str(tmp_path), "--episode", "m-3-data", "--json")
    )
    assert told["files"] == [str(tmp_path / f"m-m-3-data.{form}") for form in ("html", "json")]
    assert json_format.MessageToDict(door[0].asked[-1]) == {"model": "m", "episode": "m-3-data"}


def test_the_loops_are_summed_up_with_a_live_version_that_was_taken_back_and_each_tells_what_was_decided(
    door: tuple[Servicer, str], capsys: pytest.CaptureFixture[str]
) -> None:
    [found] = json.loads(trimtab(capsys, "loop", "list", "--summary", "--json"))
    story = trimtab(capsys, "loop", "show", "good").splitlines()

    assert (found["live"], found["rolled_back_share"], found["failed_share"]) == (2, 0.5, 0.0)
    assert (found["lead_time_ms"], found["restored_ms"]) == (1.5 * DAY, 3 * DAY)
    assert [line for line in story if "policy" in line] == [
        "  policy    2020-03-15T12:00  quality: x is null.",
        "  policy    2020-03-15T13:00  called: It drifted.",
    ]
