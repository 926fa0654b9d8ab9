"""The command where no Trimtab runs: one clear sentence, and a way on."""

import asyncio
import io
import json
import os
import subprocess
import sys
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from aiokafka.errors import KafkaConnectionError
from google.protobuf import json_format
from trimtab import cli, project
from trimtab.cli import session
from trimtab.cli.stack import parse_scale
from trimtab.client import SERVICES
from trimtab_contracts import topics
from trimtab_contracts.monitoring.v1.monitoring_pb2 import Metric
from trimtab_contracts.registry.v1.registry_pb2 import Resource
from trimtab_core.specs import to_document
from trimtab_runtime import admin, bus, records
from trimtab_runtime.errors import Fault, Rejected, Unavailable
from trimtab_stack import state
from trimtab_stack.environment import inherited
from trimtab_stack.processes import Identity
from trimtab_stack.state import State

TRIMTAB = Path(sys.executable).parent / "trimtab"


class Done(NamedTuple):
    """How a command ended, and what it said."""

    returncode: int
    stdout: str
    stderr: str


def trimtab(*words: str, environ: dict[str, str] | None = None) -> Done:
    """Run the command in this process, as the shell would see it: to start Python and all imports takes seconds."""
    out, err = io.StringIO(), io.StringIO()
    with pytest.MonkeyPatch.context() as patched, redirect_stdout(out), redirect_stderr(err):
        patched.setattr(sys, "argv", ["trimtab", *words])
        patched.setattr("os.environ", inherited() | (environ or {}))
        with pytest.raises(SystemExit) as ended:
            cli.main()
    code = ended.value.code
    if isinstance(code, str):
        err.write(f"{code}\n")
        code = 1
    return Done(code or 0, out.getvalue(), err.getvalue())


def test_the_command_that_is_installed_is_this_one(tmp_path: Path) -> None:
    words = ["loop", "list", "--dir", str(tmp_path)]

    done = subprocess.run(
        [TRIMTAB, *words], capture_output=True, text=True, timeout=60, check=False, env=inherited()
    )

    assert Done(done.returncode, done.stdout, done.stderr) == trimtab(*words)


@pytest.mark.parametrize(
    "words",
    [
        ["model", "versions", "m"],
        ["loop", "list"],
        ["get"],
        ["tail", "drift"],
        ["run", "list"],
        ["deadletter", "list"],
        ["audit", "log"],
        ["audit", "verify", "--against-topic"],
    ],
)
def test_a_command_that_needs_a_stack_says_how_to_get_one(tmp_path: Path, words: list[str]) -> None:
    done = trimtab(*words, "--dir", str(tmp_path))

    assert done.returncode == 1
    assert done.stderr == f"trimtab: no Trimtab runs in {tmp_path}: start one with `trimtab up`\n"
    assert done.stdout == ""


def test_a_faulty_project_is_refused_before_anything_is_asked(tmp_path: Path) -> None:
    (tmp_path / "m.yaml").write_text("kind: Modl\n")

    done = trimtab("apply", str(tmp_path), "--dir", str(tmp_path))

    assert done.returncode == 1
    assert done.stderr.startswith(f"trimtab: {tmp_path}/m.yaml:1: kind: 'Modl'")


def test_a_row_that_is_no_json_is_told(tmp_path: Path) -> None:
    done = trimtab("predict", "m", "{rubbish", "--dir", str(tmp_path))

    assert done.returncode == 1
    assert "the row is no JSON" in done.stderr


def test_what_fails_side_by_side_is_told_once_each_in_sentences_with_the_logs(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    away = [Unavailable("the feature store is away"), Unavailable("the feature store is away")]
    failure = ExceptionGroup("tasks", [*away, ExceptionGroup("more", [KafkaConnectionError("no broker")])])
    failure.add_note("The logs are in .trimtab/demo/logs.")

    def app() -> None:
        raise failure

    monkeypatch.setattr(cli, "app", app)
    with pytest.raises(SystemExit) as ended:
        cli.main()

    assert ended.value.code == (
        "trimtab: the feature store is away; KafkaConnectionError('no broker')\nThe logs are in .trimtab/demo/logs."
    )
    assert "Traceback" not in capsys.readouterr().err


def test_a_fault_that_nobody_foresaw_keeps_its_traceback(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(cli, "app", lambda: 1 / 0)
    with pytest.raises(SystemExit):
        cli.main()

    assert "Traceback" in capsys.readouterr().err


def test_doctor_says_what_was_found_as_json() -> None:
    found = json.loads(trimtab("doctor", "--json").stdout)

    assert {"check", "ok", "found", "remedy"} == set(found[0])


def test_scale_names_services_and_counts() -> None:
    assert parse_scale("serving=2,feature_store=3") | {"serving": 2} == parse_scale(
        "feature_store=3,serving=2"
    )
    assert parse_scale("")["trainer"] == 1
    for wrong in ("serving", "srving=2", "serving=0", "serving=x"):
        with pytest.raises(Rejected, match="is not understood"):
            parse_scale(wrong)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (
            ["model", "versions", "m", "--at", "noon"],
            "--at 'noon' is no time: write one such as 2020-03-15T12:00:00Z, or a day such as 2020-03-15",
        ),
        (["model", "train", "m", "--as-of", "2020-03-15 12:00"], "--as-of '2020-03-15 12:00' is no time"),
        (["demo", "--until", "2020-02-30"], "--until '2020-02-30' is no time"),
        (["demo", "--until", "2019-01-01"], "--until '2019-01-01' is not after 2019-10-01"),
    ],
)
def test_a_time_that_is_none_is_told(tmp_path: Path, words: list[str], said: str) -> None:
    done = trimtab(*words, "--dir", str(tmp_path))

    assert done.returncode == 1
    assert done.stderr.startswith(f"trimtab: {said}")
    assert "Traceback" not in done.stderr


def test_a_service_that_is_away_is_named(tmp_path: Path) -> None:
    away = {f"TRIMTAB_{name.upper()}_ADDRESS": "127.0.0.1:1" for name in SERVICES}

    done = trimtab("model", "list", "--dir", str(tmp_path), environ=away)

    assert done.returncode == 1
    assert done.stderr.startswith("trimtab: registry cannot answer: ")


def test_a_kafka_that_is_away_is_told_in_a_sentence(tmp_path: Path) -> None:
    away = {"TRIMTAB_REGISTRY_ADDRESS": "127.0.0.1:1", "TRIMTAB_KAFKA_SERVERS": "127.0.0.1:1"}

    for words in (["tail", "drift"], ["deadletter", "list"]):
        done = trimtab(*words, "--dir", str(tmp_path), environ=away)

        assert done.returncode == 1
        assert "trimtab: Kafka at 127.0.0.1:1 cannot be read" in done.stderr
        assert "Traceback" not in done.stderr


@pytest.mark.real
def test_a_topic_that_is_not_there_is_told_with_what_makes_it(tmp_path: Path, kafka_servers: str) -> None:
    there = {"TRIMTAB_REGISTRY_ADDRESS": "127.0.0.1:1", "TRIMTAB_KAFKA_SERVERS": kafka_servers}

    done = trimtab("tail", "events.nowhere", "--dir", str(tmp_path), environ=there)

    assert done.stderr.startswith(
        "trimtab: topic 'events.nowhere' does not exist yet: apply what it belongs to"
    )


@pytest.mark.real
def test_tail_once_prints_what_is_there_and_ends(tmp_path: Path, kafka_servers: str) -> None:
    there = {"TRIMTAB_REGISTRY_ADDRESS": "127.0.0.1:1", "TRIMTAB_KAFKA_SERVERS": kafka_servers}

    async def tell() -> None:
        await admin.ensure_topics(kafka_servers, [topics.METRICS_DRIFT])
        async with bus.open_producer(kafka_servers) as producer:
            metrics = [Metric(id=name, model=name, name="drift", value=0.5) for name in ("m", "n")]
            told = [
                records.outgoing(topics.METRICS_DRIFT, it, key=it.id, id=it.id, source="test", time_ms=1)
                for it in metrics
            ]
            await records.send_all(producer, told)

    asyncio.run(tell())
    done = trimtab("tail", "metrics.drift", "--once", "--dir", str(tmp_path), environ=there)
    first = trimtab("tail", "metrics.drift", "--once", "--limit", "1", "--dir", str(tmp_path), environ=there)

    told = [json.loads(line) for line in done.stdout.splitlines()]
    assert sorted(line["value"]["id"] for line in told) == ["m", "n"]
    assert {line["value"]["value"] for line in told} == {0.5}
    assert len(first.stdout.splitlines()) == 1


def test_a_stack_is_started_with_the_settings_of_whoever_starts_it(monkeypatch: pytest.MonkeyPatch) -> None:
    wanted = {"TRIMTAB_KAFKA_SERVERS": "kafka:9092", "TRIMTAB_SERVING_THREADS": "8"}
    rest = {"TRIMTAB_REGISTRY_ADDRESS": "x:1", "TRIMTAB_DIR": "d", "TRIMTAB_ACTOR": "ann", "HOME": "h"}
    monkeypatch.setattr("os.environ", wanted | rest)

    assert session.settings() == wanted


def test_who_asks_is_the_login_name_unless_it_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TRIMTAB_ACTOR", raising=False)
    monkeypatch.setattr("getpass.getuser", lambda: "ann")
    assert session.actor() == "ann"

    def nameless() -> str:
        raise OSError("no such user")

    monkeypatch.setattr("getpass.getuser", nameless)
    assert session.actor() == f"uid-{os.getuid()}"

    monkeypatch.setenv("TRIMTAB_ACTOR", "bot")
    assert session.actor() == "bot"


def test_what_is_not_set_of_a_trimtab_elsewhere_is_named(tmp_path: Path) -> None:
    partly = {"TRIMTAB_REGISTRY_ADDRESS": "127.0.0.1:1"}

    for words, lacking in (
        (["loops"], "TRIMTAB_FEATURE_STORE_ADDRESS, TRIMTAB_SERVING_ADDRESS, "),
        (["tail", "drift"], "TRIMTAB_KAFKA_SERVERS not set"),
    ):
        done = trimtab(*words, "--dir", str(tmp_path), environ=partly)
        assert done.returncode == 1
        assert done.stderr.startswith(f"trimtab: {lacking}"), done.stderr


def test_a_stack_that_runs_is_not_said_to_be_changed(tmp_path: Path) -> None:
    state.write(tmp_path, State(status="ready", owner=Identity.of(os.getpid())))

    scaled = trimtab("up", "--scale", "serving=2", "--dir", str(tmp_path))
    given = trimtab("up", "--dir", str(tmp_path), environ={"TRIMTAB_KAFKA_SERVERS": "k:1"})
    again = trimtab("up", "--dir", str(tmp_path))

    assert scaled.returncode == 1
    assert "--scale does not change it: `trimtab down` first" in scaled.stderr
    assert (given.returncode, again.returncode) == (0, 0)
    assert "TRIMTAB_KAFKA_SERVERS would hold after `trimtab down`" in " ".join(given.stdout.split())
    assert "would hold" not in again.stdout


def test_a_faulty_project_is_told_with_what_the_registry_finds_in_the_rest_of_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    view = "spec: {source: s, hop: 1h, ttl: 2h, aggregates: [{field: x, functions: [count], windows: [1h]}]}"
    (tmp_path / "a.yaml").write_text(f"kind: FeatureView\nmetadata: {{name: v}}\n{view}\n")
    (tmp_path / "b.yaml").write_text("kind: Source\nmetadata: {name: s}\nspec: {}\n")
    asked: list[Any] = []

    class Registry:
        async def apply(self, documents: list[Any], *, actor: str, validate_only: bool) -> None:
            asked.append((documents, validate_only))
            raise Rejected(faults=[Fault("FeatureView/v", "spec.hop", "'1h' is too short: make it longer")])

    monkeypatch.setattr("trimtab.cli.project.ask", lambda _, question: asyncio.run(question(Registry())))
    monkeypatch.setattr(sys, "argv", ["trimtab", "apply", str(tmp_path)])
    with pytest.raises(SystemExit) as ended:
        cli.main()

    assert f"{tmp_path}/a.yaml:3: spec.hop: '1h' is too short: make it longer" in str(ended.value.code)
    assert f"{tmp_path}/b.yaml:3: spec.key: it is missing: add it" in str(ended.value.code)
    [(documents, validate_only)] = asked
    assert validate_only
    assert [getattr(each, "name", None) or each["metadata"]["name"] for each in documents] == ["v", "s"]


SOURCE = """kind: Source
metadata: {name: s}
spec:
  key: id
  event_time: at
  lateness: 2h
  fields:
    id: {type: string}
    at: {type: timestamp}
    x: {type: number, max: 9}
"""


class Registry:
    """Holds a source `s`, whose `x` may be up to 10, and refuses what its faults say."""

    def __init__(self, *faults: Fault) -> None:
        spec = project.parse(SOURCE.replace("max: 9", "max: 10, unit: m")).resources[0]
        self.held = Resource(kind="Source", name="s")
        json_format.ParseDict(to_document(spec), self.held.document)
        self.faults = faults
        self.applied = False

    async def resources(self) -> list[Resource]:
        return [self.held]

    async def apply(self, documents: list[Any], *, actor: str, validate_only: bool = False) -> None:
        self.applied |= not validate_only
        if self.faults:
            raise Rejected(faults=self.faults)


def planned(monkeypatch: pytest.MonkeyPatch, path: Path, registry: Registry, *words: str) -> Any:
    monkeypatch.setattr("trimtab.cli.project.ask", lambda _, question: asyncio.run(question(registry)))
    monkeypatch.setattr(sys, "argv", ["trimtab", "plan", str(path), *words])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert not registry.applied
    return ended.value.code


def test_a_plan_tells_what_would_change_key_by_key_and_changes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "s.yaml").write_text(SOURCE)
    (tmp_path / "s2.yaml").write_text(SOURCE.replace("spec:", "spec:\n  version: 2"))

    assert planned(monkeypatch, tmp_path, Registry(), "--json") == 0

    said = json.loads(capsys.readouterr().out)
    assert said == {
        "changes": [
            {
                "kind": "Source",
                "name": "s",
                "action": "changed",
                "differences": [
                    {"key": "spec.fields.x.max", "before": 10, "after": 9},
                    {"key": "spec.fields.x.unit", "before": "m", "after": None},
                ],
            },
            {"kind": "Source", "name": "s.v2", "action": "created", "differences": []},
        ],
        "faults": [],
        "warnings": [],
    }


def test_a_plan_that_would_break_somebody_fails_with_the_place_below_what_it_would_change(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "s.yaml").write_text(SOURCE)
    fault = Fault("Source/s", "spec.fields.x.max", "9 was 10: set version: 2")

    ended = planned(monkeypatch, tmp_path, Registry(fault))

    assert ended == f"trimtab: {tmp_path}/s.yaml:10: spec.fields.x.max: 9 was 10: set version: 2"
    table = [line.replace("│", " ").split() for line in capsys.readouterr().out.splitlines()]
    assert ["Source", "s", "changed", "spec.fields.x.max", "10.0", "9.0"] in table
    assert ["Source", "s", "changed", "spec.fields.x.unit", '"m"', "-"] in table
    assert planned(monkeypatch, tmp_path, Registry(fault), "--json") == ended
    assert json.loads(capsys.readouterr().out)["faults"] == [
        {
            "file": f"{tmp_path}/s.yaml",
            "line": 10,
            "key": "spec.fields.x.max",
            "sentence": "9 was 10: set version: 2",
        }
    ]


def test_a_plan_is_there_as_markdown_for_a_pull_requests_comment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "s.yaml").write_text(SOURCE)
    (tmp_path / "s2.yaml").write_text(SOURCE.replace("spec:", "spec:\n  version: 2"))
    report = tmp_path / "plan.md"

    assert planned(monkeypatch, tmp_path, Registry(), "--markdown", str(report)) == 0

    assert report.read_text().splitlines() == [
        "## Trimtab plan",
        "",
        "It can be applied: 1 created, 1 changed.",
        "",
        "| | what | key | before | after |",
        "|---|---|---|---|---|",
        "| changed | `Source/s` | `spec.fields.x.max` | `10.0` | `9.0` |",
        '| changed | `Source/s` | `spec.fields.x.unit` | `"m"` |  |',
        "| new | `Source/s.v2` |  |  |  |",
    ]


def test_the_markdown_of_a_plan_that_cannot_be_applied_says_why_and_where(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "s.yaml").write_text(SOURCE)
    report, fault = tmp_path / "plan.md", Fault("Source/s", "spec.fields.x.max", "9 was 10 | so <b>\nmend it")

    assert planned(monkeypatch, tmp_path, Registry(fault), "--markdown", str(report)) != 0
    said = report.read_text()
    assert "**It cannot be applied: 1 fault.**" in said
    assert f"| `{tmp_path}/s.yaml:10` | `spec.fields.x.max` | 9 was 10 \\| so &lt;b> mend it |" in said

    (tmp_path / "t.yaml").write_text("kind: Modl\n")
    assert planned(monkeypatch, tmp_path, Registry(), "--markdown", str(report)) != 0
    assert f"`{tmp_path}/t.yaml:1` | `kind` | 'Modl' is no kind of resource" in report.read_text()
    assert "cannot be written" in str(planned(monkeypatch, tmp_path, Registry(), "--markdown", str(tmp_path)))
