"""`trimtab report`: quality by day, the numbers of a profile, the page, the data card, and what is refused."""

import asyncio
import importlib.util
import json
import re
import sys
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from google.protobuf import json_format
from trimtab import cli, deadletters, metrics
from trimtab.card import Card
from trimtab.cli import report
from trimtab.cli.report import Span, live_versions
from trimtab.datasets import Events
from trimtab.metrics import DAY_MS, Day, by_day
from trimtab.profile import profile
from trimtab_contracts import topics
from trimtab_contracts.monitoring.v1.monitoring_pb2 import Metric
from trimtab_contracts.registry.v1.registry_pb2 import AuditEntry, Deployment, Resource, VersionRef
from trimtab_core import specs
from trimtab_runtime.clock import to_timestamp
from trimtab_runtime.errors import NotFound, Rejected
from trimtab_runtime.specbook import UnknownSource

FIRST = 18_000 * DAY_MS
"""Midnight of 2019-04-14."""
DOCUMENT = {
    "apiVersion": "trimtab/v1",
    "kind": "Source",
    "metadata": {"name": "rides", "owner": "ann@example.org", "description": "What | the taxis send."},
    "spec": {
        "key": "id", "event_time": "at", "lateness": "2h", "rules": ["x > 0"],
        "fields": {
            "id": {"type": "string", "unique_within": "2d"},
            "at": {"type": "timestamp", "timezone": "America/New_York"},
            "x": {"type": "number", "unit": "km", "sent_in": "mi", "min": 0, "nulls": [-200], "nullable": True,
                  "expect": {"mean": [2, 8]}},
            "road": {"type": "string", "nullable": True, "enum": ["a", "b"]},
        },
    },
}  # fmt: skip
SOURCE = specs.Source.model_validate(DOCUMENT)


def told(name: str, value: float, **more: Any) -> Metric:
    given = {"id": f"raw.rides/0/7/{name}", "model": "rides", "rows": 10, **more}
    at_ms = given.pop("at_ms", FIRST + 5)
    return Metric(name=name, value=value, window_to=to_timestamp(at_ms), **given)


SAID = [
    told("refused_share", 0.2),
    told("refused_out_of_range", 2),
    told("refused_late", 1),
    told("duplicates", 3),
    told("cleaned_convert", 8, feature="x"),
    told("mean", 9.0, feature="x", low=2, high=8, held=False),
    told("mean", 5.0, feature="x", low=2, high=8, held=True),
    told("refused_share", 0.0, at_ms=FIRST + DAY_MS),
    told("null_share", 0.5, id="model/rides/1", version=1),
]


def some_events(rows: int = 48, total: int | None = None) -> Events:
    at = FIRST + np.arange(rows) * (DAY_MS // 48)
    table = pa.table(
        {
            "id": [f"r{number}" for number in range(rows)],
            "at": pa.array(at, pa.timestamp("ms", tz="UTC")),
            "x": pa.array([None if number % 4 == 0 else float(number) for number in range(rows)]),
            "road": pa.array([["a", "b", None][number % 3] for number in range(rows)], pa.string()),
        }
    )
    ends = (int(at[0]), int(at[-1])) if rows else (None, None)
    return Events("rides", 4, rows if total is None else total, *ends, FIRST + DAY_MS, table)


def test_quality_is_summed_up_by_day_and_is_not_that_of_a_model_of_the_same_name() -> None:
    first, second = by_day("rides", SAID)

    assert first.described() == {
        "day": "2019-04-14", "rows": 10, "refused": 2, "reasons": {"out_of_range": 2, "late": 1},
        "duplicates": 3, "cleaned": {"x convert": 8}, "expectations": 2,
        "failed": ["mean of x was 9 over 10 rows, and in [2, 8] is expected"],
    }  # fmt: skip
    assert first.row()["refused"] == "2 (20.00%)"
    assert first.row()["because"] == "out_of_range 2, late 1"
    assert (second.day, second.rows, second.refused) == ("2019-04-15", 10, 0)


async def test_a_metric_that_cannot_be_read_hides_no_other(monkeypatch: pytest.MonkeyPatch) -> None:
    async def committed(_: str, topic: str) -> AsyncIterator[Any]:
        values = [(b"rides", b"{rubbish"), *((b"rides", topics.METRICS_QUALITY.encode(m)) for m in SAID)]
        for key, value in [*values, (b"other", b"{rubbish")]:
            yield SimpleNamespace(key=key, value=value, partition=0, offset=1)

    monkeypatch.setattr(metrics, "committed", committed)

    assert [day.day for day in await metrics.quality("k:1", "rides")] == ["2019-04-14", "2019-04-15"]


def test_a_profile_has_the_numbers_of_each_field_in_one_order() -> None:
    made = profile(SOURCE, some_events(), called="2019-04-14")

    fields = {field["field"]: field for field in made.fields}
    assert list(fields) == ["id", "at", "road", "x"]
    x = fields["x"]
    assert (x["nulls"], x["distinct"], x["min"], x["max"], x["p50"]) == (0.25, 36, 1, 47, 24)
    assert (fields["road"]["nulls"], fields["road"]["common"]) == (pytest.approx(1 / 3), "a 16, b 16")
    assert (fields["at"]["min"], fields["at"]["max"]) == (
        "2019-04-14T00:00:00.000Z",
        "2019-04-14T23:30:00.000Z",
    )
    assert (fields["id"]["distinct"], fields["id"]["common"]) == (48, None)


def test_a_profile_of_nothing_but_nulls_has_no_numbers() -> None:
    table = some_events(4).arrow()
    empty = table.set_column(table.column_names.index("x"), "x", pa.nulls(4, pa.float64()))

    made = profile(SOURCE, Events("rides", 4, 4, FIRST, FIRST, None, empty), called="then")

    [x] = [field for field in made.fields if field["field"] == "x"]
    assert (x["nulls"], x["distinct"], x["mean"], x["min"]) == (1.0, 0, None, None)


def test_the_page_stands_by_itself_and_tells_what_evidently_does_not_know(tmp_path: Path) -> None:
    page = tmp_path / "pages" / "rides.html"

    profile(SOURCE, some_events(60, total=90), called="2019-04-14", days=by_day("rides", SAID)[:1]).write(
        page
    )

    text = page.read_text()
    assert not re.search(r"""<(?:script|link|img)[^>]*(?:src|href)=["']?https?:""", text)
    for said in ("a sample of 60 of 90", "out_of_range 2, late 1", "x convert 8", "mean of x was 9", "33.3%"):
        assert said in text
    numbers = json.loads(page.with_suffix(".json").read_text())
    assert (numbers["events"], numbers["profiled"], numbers["quality"][0]["reasons"]["late"]) == (90, 60, 1)
    drawn = {metric["config"].get("column") for metric in numbers["evidently"]["metrics"]}
    assert drawn - {None} == {"x", "road", "hour(at)"}
    [hours] = [
        metric["value"]
        for metric in numbers["evidently"]["metrics"]
        if metric["metric_name"].startswith("MinValue(column=hour(at)")
    ]
    assert hours == 0  # as the clocks of New York showed them, midnight there is among the times
    (tmp_path / "file").touch()
    with pytest.raises(Rejected, match="cannot be written"):
        profile(SOURCE, some_events(), called="x").write(tmp_path / "file" / "x.html")


def a_card(**changes: Any) -> Card:
    card = {
        "source": SOURCE,
        "applied": [{"generation": 2, "at": "2019-04-14T00:00:00.000Z", "by": "ann"}],
        "majors": ["rides", "rides.v2"],
        "archive": some_events(0, total=90),
        "days": by_day("rides", SAID),
        "letters": {"waiting": 2},
        "views": [{"view": "speed", "entity": "road", "p50 ms": 12.3456}],
        "models": [{"model": "m", "takes it for": "rows", "champion": "version 3", "challenger": None}],
    }
    return Card(**(card | changes))


def test_a_card_says_what_is_promised_what_came_and_who_leans_on_it() -> None:
    text = a_card().markdown({"2019-04-14": "rides-2019-04-14.html"})

    for said in (
        "# rides",
        "What \\| the taxis send.",
        "Owner: ann@example.org",
        "- rules: x > 0",
        "| id | string |  |  | once within 2d |  |  |",
        "| x | number | km | allowed | >= 0 | -200 become null; converted from mi | mean in [2, 8] |",
        "| 2 | 2019-04-14T00:00:00.000Z | ann |",
        "applied: rides, rides.v2.",
        "- rows: 90",
        "| total | 20 | 2 (10.00%) | out_of_range 2, late 1 | 3 | x convert 8 | 1 of 2 |",
        "- 2019-04-14: mean of x was 9",
        "| waiting |\n| --- |\n| 2 |",
        "| speed | road | 12.35 |",
        "| model | takes it for | champion |\n",
        "- [2019-04-14](rides-2019-04-14.html)",
    ):
        assert said in text, said


def test_a_card_of_a_source_that_nothing_came_of_says_so() -> None:
    bare = a_card(days=[], letters={}, views=[], models=[], archive=some_events(0)).markdown({})

    for said in ("Nothing has been told of it", "None is kept.", "No view is made of it.", "No model leans"):
        assert said in bare
    assert "Profiles" not in bare


def test_a_card_shows_the_newest_days_and_counts_the_others_in() -> None:
    days = [Day(f"2019-{number // 28 + 1:02}-{number % 28 + 1:02}", rows=1) for number in range(40)]

    text = a_card(days=days).markdown({})

    assert "| 2019-01-09 |" not in text
    assert "| 2019-01-10 |" in text
    assert "| total | 40 |" in text
    assert "9 earlier days are in the total alone." in text


def test_the_versions_that_answer_are_told_with_what_they_take_of_the_source() -> None:
    features = ["request.x", "speed.x_mean_1h", "other.y", "ratio = request.x / speed.x_max_1h"]
    deployment = Deployment(champion=VersionRef(number=3, features=features))

    assert live_versions(deployment, ["speed"]) == {
        "champion": "version 3, with speed.x_max_1h, speed.x_mean_1h",
        "challenger": None,
    }
    assert live_versions(deployment, [])["champion"] == "version 3"


class Running:
    """A Trimtab with the source `rides`, of which a day is archived."""

    def __init__(self, rows: int = 48) -> None:
        self.archived = some_events(rows)
        self.asked: list[tuple[int, int, int]] = []

    async def source(self, name: str) -> specs.Source:
        if name != "rides":
            raise UnknownSource(name)
        return SOURCE

    async def resources(self) -> list[Resource]:
        return [json_format.ParseDict({"kind": "Source", "name": "rides", "document": DOCUMENT}, Resource())]

    async def audit(self, resource: str, *, limit: int) -> list[AuditEntry]:
        assert resource == "Source/rides"
        return [json_format.ParseDict({"actor": "ann", "details": {"generation": 1}}, AuditEntry())]

    async def events(
        self, name: str, start_ms: int = 0, end_ms: int = 0, *, most_rows: int | None = None
    ) -> Events:
        if most_rows == 0:
            return self.archived
        assert most_rows is not None
        self.asked.append((start_ms, end_ms, most_rows))
        return self.archived if start_ms <= FIRST < end_ms else some_events(0)


Run = Callable[..., str]


@pytest.fixture
def running(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Running:
    running = Running()

    async def nothing(*_: Any) -> list[Any]:
        return []

    async def quality(*_: Any) -> list[Day]:
        return by_day("rides", SAID)

    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TRIMTAB_REGISTRY_ADDRESS", "r:1")
    monkeypatch.setenv("TRIMTAB_KAFKA_SERVERS", "k:1")
    monkeypatch.setattr(report, "ask", lambda _, question: asyncio.run(question(running)))
    monkeypatch.setattr(metrics, "quality", quality)
    monkeypatch.setattr(metrics, "freshness", nothing)
    monkeypatch.setattr(deadletters, "find", nothing)
    return running


@pytest.fixture
def tell(running: Running, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """Run the command and return what it prints."""

    def run(*words: str) -> str:
        monkeypatch.setattr(sys, "argv", ["trimtab", "report", "--source", *words])
        cli.app(standalone_mode=False)
        return capsys.readouterr().out

    return run


def test_the_newest_archived_day_is_drawn_beside_its_card(running: Running, tell: Run) -> None:
    said = json.loads(tell("rides", "--rows", "20", "--json"))

    assert said["files"] == ["reports/rides-2019-04-14.html", "reports/rides.md", "reports/rides.html"]
    assert running.asked == [(FIRST, FIRST + DAY_MS, 20)]
    [drawn] = said["profiles"]
    assert [day["day"] for day in drawn["quality"]] == ["2019-04-14"]
    assert said["card"]["archive"]["rows"] == 48
    assert "[2019-04-14](rides-2019-04-14.html)" in Path("reports/rides.md").read_text()


def test_the_card_alone_needs_no_evidently(tell: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)

    assert tell("rides", "--card", "--out", "cards") == "wrote cards/rides.md\nwrote cards/rides.html\n"

    with pytest.raises(Rejected, match=r"pip install 'trimtab\[report\]'"):
        tell("rides")


@pytest.mark.parametrize(
    ("words", "refusal", "sentence"),
    [
        (["none"], NotFound, "there is no source 'none'"),
        (["rides", "--day", "2019-04-15"], NotFound, "of 2019-04-15: there are some from 2019-04-14T00:00"),
        (
            ["rides", "--day", "14 April"],
            Rejected,
            "--day '14 April' is no day: write one such as 2020-03-18",
        ),
        (["rides", "--day", "2019-02-30"], Rejected, "--day '2019-02-30' is no time"),
        (["rides", "--from", "2019-04-14"], Rejected, "--from and --until make one page"),
        (["rides", "--from", "2019-04-14", "--until", "2019-04-14"], Rejected, "is not after --from"),
        (["rides", "--card", "--day", "2019-04-14"], Rejected, "--card stands beside a time"),
    ],
)
def test_what_cannot_be_reported_is_refused_in_a_sentence_and_nothing_is_written(
    tell: Run, words: list[str], refusal: type[Exception], sentence: str
) -> None:
    with pytest.raises(refusal, match=re.escape(sentence)):
        tell(*words)
    assert not Path("reports").exists()


def test_a_source_without_events_is_told_where_to_look(tell: Run, running: Running) -> None:
    running.archived = some_events(0)

    with pytest.raises(NotFound, match=r"no event of source 'rides' is archived: send it rows"):
        tell("rides")


def test_days_make_a_page_each_and_a_range_makes_one() -> None:
    days = report.spans(["2019-04-14", "2019-04-15", "2019-04-14"], "", "")
    assert days == [
        Span("2019-04-14", FIRST, FIRST + DAY_MS),
        Span("2019-04-15", FIRST + DAY_MS, FIRST + 2 * DAY_MS),
    ]
    assert report.spans([], "2019-04-14", "2019-04-16") == [
        Span("2019-04-14 to 2019-04-16", FIRST, FIRST + 2 * DAY_MS)
    ]
    assert report.spans([], "", "") == []
