"""docs/metrics.md names every metric that is published, and no other; its example is a message, and its code runs."""

import inspect
import json
import re
import tomllib
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from trimtab.cli import streams
from trimtab_contracts import topics
from trimtab_contracts.monitoring.v1.monitoring_pb2 import Metric
from trimtab_core.cleaning import Operation
from trimtab_core.contract import ReasonCode
from trimtab_core.metricnames import BY_SUBJECT
from trimtab_core.specs import Expect
from trimtab_core.watched import Reading
from trimtab_ingestion import loader, quality
from trimtab_monitoring import messages
from trimtab_runtime import freshness, outbox
from trimtab_runtime.clock import ManualClock, to_timestamp
from trimtab_serving import producers
from trimtab_serving.messages import Messages

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs/metrics.md").read_text()
HOUR_MS = 3_600_000


def listed() -> dict[str, set[str]]:
    """Return the names in the tables of the page by topic."""
    sections = re.findall(r"### `(metrics\.\w+)`\n(.*?)(?=\n##|\Z)", PAGE, re.DOTALL)
    return {
        topic: {
            name
            for row in re.findall(r"^\| `.*$", text, re.MULTILINE)
            for name in re.findall(r"`([^`]+)`", row.split("|")[1])
        }
        for topic, text in sections
    }


def of_ingestion() -> set[str]:
    judged: Any = SimpleNamespace(
        good=np.array([0]),
        event_time_ms=np.array([1, 2]),
        reasons=[(), (SimpleNamespace(code=ReasonCode.LATE),)],
        cleaned={("x", Operation.TRIM): 1},
    )
    batch = {metric.name for metric in quality._of_batch(None, judged, 0)}
    batch |= {metric.name for metric in quality._by_hour(judged, np.array([0]))}
    batch.add(quality._delay(np.array([1]), np.array([2])).name)
    loads = set(re.findall(r'_metric\("(\w+)"', inspect.getsource(loader)))
    general = {"refused_late": "refused_<code>", "cleaned_trim": "cleaned_<operation>"}
    return {general.get(name, name) for name in batch | loads} | set(Expect.model_fields)


def of_serving() -> set[str]:
    traffic: Any = SimpleNamespace(model="m", predictions=1, failures=0, p50_ms=1.0, p99_ms=2.0)
    told = {
        topics.METRICS_SERVING.decode(record.value or b"").name
        for record in Messages("s-0", ManualClock(0)).metrics(traffic, 0, 1)
    }
    return told | set(re.findall(r'"(\w+)":', inspect.getsource(producers.Gauge.read)))


def test_the_page_lists_the_metrics_that_are_published_and_no_other() -> None:
    published = {f"metrics.{subject}": set(names) for subject, names in BY_SUBJECT.items()}
    published["metrics.quality"] |= of_ingestion() | {outbox.SET_ASIDE}
    published["metrics.serving"] = of_serving()
    published["metrics.features"] = {freshness.P50, freshness.P99}

    assert listed() == published
    assert set(published) == {topic.name for topic in topics.ALL if topic.value is Metric}


def test_the_page_explains_every_field_of_the_message() -> None:
    table = PAGE[PAGE.index("| field | what |") : PAGE.index("It is Protobuf's JSON")]
    explained = {
        name for row in table.strip().splitlines()[2:] for name in re.findall(r"`(\w+)`", row.split("|")[1])
    }

    assert explained | {"revision"} == {field.name for field in Metric.DESCRIPTOR.fields}


def test_the_example_is_a_message_as_it_is_published() -> None:
    (example,) = re.findall(r"```json\n(.*?)```", PAGE, re.DOTALL)
    metric = topics.METRICS_DRIFT.decode(example.encode())

    assert json.loads(topics.METRICS_DRIFT.encode(metric)) == json.loads(example)
    assert metric.name in listed()["metrics.drift"]


def told(hour: int, feature: str, value: float | None, revision: int = 0, **part: str) -> Metric:
    return Metric(
        id=f"{hour}/{feature}/{part}", model="m", version=3, name="drift", feature=feature, value=value, threshold=0.2,
        window_from=to_timestamp(hour * HOUR_MS), window_to=to_timestamp((hour + 1) * HOUR_MS + 5 * hour), rows=500,
        revision=revision, **part,
    )  # fmt: skip


@pytest.fixture(params=["whole", "parts"])
def tailed(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Have the file that `trimtab tail metrics.drift --once` writes, in the folder that commands run in."""
    metrics = [told(0, "x", 0.125), told(0, "z", 0.0), told(1, "x", 0.5), told(1, "x", 0.25, revision=1)]
    metrics += [told(0, "w", None), told(1, "w", None)]
    if request.param == "parts":
        metrics += [told(1, "x", 0.9, slice_of="z", slice="7"), told(1, "x", 0.9, arm="champion")]
    metrics += [Metric(id="p", model="m", name="p_value", value=0.001, threshold=0.01, version=3, rows=500)]
    lines = [
        streams._line(
            topics.METRICS_DRIFT,
            SimpleNamespace(
                partition=1, offset=at, key=b"m", headers=(), value=topics.METRICS_DRIFT.encode(metric)
            ),
        )
        for at, metric in enumerate(metrics)
    ]
    (tmp_path / "drift.jsonl").write_text("".join(f"{json.dumps(line)}\n" for line in lines))
    monkeypatch.chdir(tmp_path)


def run(library: str) -> dict[str, Any]:
    """Run the page's code that begins with the import of `library`, and return its names."""
    [code] = [it for it in re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL) if it.startswith(library)]
    names: dict[str, Any] = {}
    exec(code, names)
    return names


@pytest.mark.usefixtures("tailed")
def test_the_duckdb_code_reads_what_tail_writes() -> None:
    assert run("import duckdb")["furthest"] == [("x", 2, 0.25, 1), ("z", 1, 0.0, 0), ("w", 2, None, 0)]


@pytest.mark.usefixtures("tailed")
def test_the_pandas_code_reads_what_tail_writes() -> None:
    by_feature = run("import pandas")["by_feature"]

    assert list(by_feature.columns) == ["w", "x", "z"]
    assert by_feature["w"].isna().all(), "what is unknown is not 0"
    assert by_feature["x"].tolist() == [0.125, 0.25]
    assert by_feature["z"].tolist()[0] == 0.0


def test_the_readings_of_one_window_are_different_points_of_influxdb() -> None:
    (text,) = re.findall(r"```toml\n(.*?)```", PAGE, re.DOTALL)
    (parsed,) = tomllib.loads(text)["inputs"]["kafka_consumer"][0]["json_v2"]
    ofs: list[dict[str, Any]] = [{}, {"arm": "champion"}, *({"feature": "z", "slice": each} for each in "78")]
    ofs += [{"feature": "z", "slice": "7", "arm": "champion"}]
    ofs += [{"feature": "x", "slice": "7", "slice_of": each} for each in "vz"]
    readings = [
        Reading("performance", "m", 3, "mae", 0.5, 0, 9, 500, low=0.25, high=0.75, **of) for of in ofs
    ]

    told = [json.loads(topics.METRICS_PERFORMANCE.encode(messages.metric(each))) for each in readings]

    tags = [each["path"] for each in parsed["tag"]]
    keys = {(each[parsed["timestamp_path"]], *(each.get(tag, "") for tag in tags)) for each in told}
    assert len(keys) == len({each.id for each in readings}) == 7
    assert told[0].keys() & {"value", "low", "high"} <= {each["path"] for each in parsed["field"]}


def test_telegraf_is_told_of_topics_and_fields_that_there_are() -> None:
    (text,) = re.findall(r"```toml\n(.*?)```", PAGE, re.DOTALL)
    config = tomllib.loads(text)
    (reads,) = config["inputs"]["kafka_consumer"]
    (parsed,) = reads["json_v2"]

    assert set(reads["topics"]) <= set(listed())
    fields = [each["path"] for each in (*parsed["tag"], *parsed["field"])] + [parsed["timestamp_path"]]
    assert set(fields) <= {field.name for field in Metric.DESCRIPTOR.fields}
    always = {each["path"] for each in (*parsed["tag"], *parsed["field"]) if not each.get("optional")}
    assert always == {"model", "name", "rows"}, "what is 0 or empty is left out of the JSON"
