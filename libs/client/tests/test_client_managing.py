"""The command's words for histories, names, endings and lineage, on a registry in this process."""

import asyncio
import json
import sys
from collections.abc import Callable
from typing import Any

import pytest
from google.protobuf import json_format
from google.protobuf.struct_pb2 import Struct
from trimtab import cli
from trimtab.cli import arms, combining, managing, models, project
from trimtab.client import SERVICES, Trimtab
from trimtab_contracts.monitoring.v1.monitoring_pb2 import ListLoopsResponse, Loop
from trimtab_contracts.registry.v1.registry_pb2 import Candidate, ListVersionsResponse, Member, Version
from trimtab_contracts.training.v1.training_pb2 import (
    CombineRequest,
    ListRunsResponse,
    Run,
    RunEvent,
    TrainResponse,
)
from trimtab_registry.testing import Harness, documents
from trimtab_runtime.clock import iso, to_timestamp
from trimtab_runtime.errors import Conflict, NotFound, Rejected


class Channel:
    """Leads straight to what answers."""

    def __init__(self, api: Any) -> None:
        self._api = api

    def unary_unary(self, method: str, **_: Any) -> Any:
        async def call(request: Any, **__: Any) -> Any:
            return await getattr(self._api, method.rpartition("/")[2])(request, None)

        return call

    unary_stream = stream_unary = stream_stream = unary_unary


class Trainer:
    """Knows the runs first and second, which were trained on the same rows; remembers what is to be combined."""

    def __init__(self) -> None:
        self.combined: list[CombineRequest] = []

    async def Combine(self, request: CombineRequest, _: Any) -> TrainResponse:
        self.combined.append(request)
        return TrainResponse(command_id="c-1")

    async def ListRuns(self, request: Any, _: Any) -> ListRunsResponse:
        return ListRunsResponse(runs=[self._run(name) for name in ("second", "first")])

    async def GetRun(self, request: Any, _: Any) -> Run:
        if request.run_id not in ("first", "second", "third"):
            raise NotFound(f"there is no run {request.run_id!r}")
        return self._run(request.run_id)

    def _run(self, name: str) -> Run:
        made = Candidate(run_id=name, dataset_digest="d" * 64, rows=4_000)
        event = RunEvent(
            run_id=name,
            model="minutes",
            loop_id=f"loop-{name}",
            trigger="performance",
            as_of=to_timestamp(1_000),
        )
        event.candidate.CopyFrom(made)
        return Run(event=event)


class Monitoring:
    """Knows the loop that the second run is of."""

    async def ListLoops(self, request: Any, _: Any) -> ListLoopsResponse:
        loop = Loop(id="loop-second", model="minutes", trigger="performance", outcome="better by 2 minutes")
        return ListLoopsResponse(loops=[loop])


@pytest.fixture
def registry() -> Harness:
    async def begin() -> Harness:
        made = Harness()
        await made.apply()
        for name in ("first", "second"):
            await made.consider(name, champion=0 if name == "first" else 1)
            await made.serve()
        await made.verdict("PROMOTE")
        await made.serve()
        return made

    return asyncio.run(begin())


@pytest.fixture
def trainer() -> Trainer:
    return Trainer()


@pytest.fixture
def tell(
    registry: Harness, trainer: Trainer, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[..., str]:
    """Run the command and return what it prints, its lines as one."""
    apis = {"registry": registry.api(), "trainer": trainer, "monitoring": Monitoring()}
    channels: dict[str, Any] = {name: Channel(apis.get(name)) for name in SERVICES}
    trimtab = Trimtab(channels)
    monkeypatch.setenv("TRIMTAB_ACTOR", "ann")
    monkeypatch.setenv("COLUMNS", "200")
    for module in (arms, combining, managing, models, project):
        monkeypatch.setattr(module, "ask", lambda _, question: asyncio.run(question(trimtab)))

    def run(*words: str) -> str:
        monkeypatch.setattr(sys, "argv", ["trimtab", *words])
        cli.app(standalone_mode=False)
        return capsys.readouterr().out

    return run


def test_an_alias_finds_its_version_and_says_what_it_named(tell: Callable[..., str]) -> None:
    assert tell("model", "alias", "minutes", "1", "stable") == "minutes@stable names version 1\n"
    found = json.loads(tell("model", "versions", "minutes@stable", "--json"))
    assert [(each["number"], each["aliases"]) for each in found] == [("1", ["previous", "stable"])]
    assert "and no longer version 1" in tell("model", "alias", "minutes", "2", "stable")
    assert "champion, stable" in tell("model", "versions", "minutes@champion")
    assert "names nothing; it named version 2" in tell("model", "alias", "minutes", "0", "stable")
    with pytest.raises(NotFound, match="called 'stable'"):
        tell("model", "versions", "minutes@stable")


def test_versions_are_combined_by_their_numbers_or_what_they_are_called(
    tell: Callable[..., str], trainer: Trainer
) -> None:
    said = tell(
        "model",
        "combine",
        "minutes",
        "1",
        "champion",
        "--weights",
        "0.6,0.4",
        "--comment",
        "both",
        "--no-wait",
    )

    assert said == "ordered: follow it with `trimtab loop show c-1`\n"
    [request] = trainer.combined
    assert (request.model, request.requested_by, request.comment) == ("minutes", "ann", "both")
    found = [(member.version, member.run_id, member.weight) for member in request.members]
    assert found == [(1, "first", 0.6), (2, "second", 0.4)]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["1"], "versions are 1: name two or more, each once"),
        (["1", "1"], "versions are 1, 1: name two or more, each once"),
        (["1", "2", "--weights", "0.6"], "--weights has 1 for 2 versions: write one for each"),
        (["1", "2", "--weights", "much,little"], "--weights 'much,little' is no list of numbers: write it like 0.6,0.4"),
        (["1", "7"], "7"),
    ],
)  # fmt: skip
def test_versions_that_cannot_be_combined_are_told_at_once(
    tell: Callable[..., str], trainer: Trainer, words: list[str], said: str
) -> None:
    with pytest.raises((Rejected, NotFound), match=said):
        tell("model", "combine", "minutes", *words, "--no-wait")
    assert not trainer.combined


async def test_a_version_whose_files_went_is_not_combined(trainer: Trainer) -> None:
    class Registry:
        async def ListVersions(self, request: Any, _: Any) -> ListVersionsResponse:
            return ListVersionsResponse(versions=[Version(number=1, files_gone=to_timestamp(86_400_000))])

    channels = {name: Channel({"registry": Registry(), "trainer": trainer}.get(name)) for name in SERVICES}
    with pytest.raises(Rejected, match=r"the files of version 1 of minutes went 1970-01-02T.*: leave it out"):
        await Trimtab(channels).combine("minutes", {"1": 1.0, "2": 1.0}, actor="ann")
    assert not trainer.combined


def test_the_lineage_of_an_ensemble_names_its_members(tell: Callable[..., str], registry: Harness) -> None:
    members = [
        Member(version=1, run_id="first", weight=0.25),
        Member(version=2, run_id="second", weight=0.75),
    ]
    asyncio.run(registry.consider("third", champion=2, members=members))

    [run] = json.loads(tell("lineage", "model/minutes@3", "--json"))["branches"]
    told = [
        (each["what"], each["said"], each["branches"]) for each in run["branches"] if "member" in each["said"]
    ]
    assert [(what, said) for what, said, _ in told] == [
        ("version 1", "a member, which counts 0.25"), ("version 2", "a member, which counts 0.75"),
    ]  # fmt: skip
    assert told[0][2][0]["what"] == "run/first"


def test_a_test_is_begun_and_ended_by_one_command_and_ended_whole(tell: Callable[..., str]) -> None:
    assert "version 1 (30 %) beside version 2, the champion (70 %)" in tell(
        "model", "ab", "minutes", "1", "--shares", "30", "--comment", "once more"
    )
    with pytest.raises(Rejected, match="--end takes no versions and no shares"):
        tell("model", "ab", "minutes", "1", "--end")
    assert tell("model", "ab", "minutes", "--end", "--comment", "enough seen") == (
        "minutes: the trial is over; version 2 stays the champion\n"
    )
    with pytest.raises(Conflict, match="no version of 'minutes' is on trial"):
        tell("model", "ab", "minutes", "--end")
    with pytest.raises(Rejected, match="name its versions, like 3 5 7"):
        tell("model", "ab", "minutes")


def test_tags_are_put_and_taken_off(tell: Callable[..., str]) -> None:
    assert tell("model", "tag", "minutes", "1", "city=oslo", "pin=the court") == (
        "minutes version 1: city=oslo, pin=the court\n"
    )
    assert tell("model", "tag", "minutes", "1", "city=", "pin=") == "minutes version 1: no tags\n"
    with pytest.raises(Rejected, match="'city' is no tag: write KEY=VALUE"):
        tell("model", "tag", "minutes", "1", "city")


def test_what_served_at_a_time_is_told_with_who_let_it(tell: Callable[..., str], registry: Harness) -> None:
    at = iso(registry.clock.now_ms())
    said = tell("model", "versions", "minutes", "--at", at)
    assert "let by" in said and "registry: the judge says PROMOTE" in " ".join(said.split())
    with pytest.raises(Rejected, match="says too much"):
        tell("model", "versions", "minutes@1", "--at", at)


def test_a_version_that_is_needed_is_not_retired_and_a_model_is_taken_out_whole(
    tell: Callable[..., str],
) -> None:
    with pytest.raises(Conflict, match="it is the champion"):
        tell("model", "retire", "minutes", "2")
    with pytest.raises(Conflict, match="take it out of service first, with `trimtab model retire minutes`"):
        tell("delete", "model/minutes")
    assert tell("model", "retire", "minutes", "--comment", "forbidden") == (
        "minutes is out of service; retired with it: version 1, 2\n"
    )
    assert tell("delete", "model/minutes") == "Model minutes is deleted; generation 1 was the last\n"


def test_a_history_says_who_changed_what_and_two_generations_are_compared(
    tell: Callable[..., str], registry: Harness
) -> None:
    asyncio.run(registry.apply(trainer={"window": "30d"}))
    listed = " ".join(tell("history", "model/minutes").split())
    assert "created" in listed and "spec.trainer.window" in listed
    [row] = json.loads(tell("diff", "model/minutes", "1", "2", "--json"))
    assert row == {"key": "spec.trainer.window", "generation 1": '"90d"', "generation 2": '"30d"'}
    assert "they are the same" in tell("diff", "Model/minutes", "2")
    assert "window: 90d" in tell("get", "model/minutes", "--generation", "1")
    assert "window: 30d" in tell("get", "model/minutes")
    with pytest.raises(NotFound, match="has no generation 7: name one from 1 to 2"):
        tell("diff", "model/minutes", "1", "7")
    for words in (["history", "minutes"], ["history", "cat/minutes"], ["diff", "model/", "1"]):
        with pytest.raises(Rejected, match="names no spec: write KIND/NAME"):
            tell(*words)
    with pytest.raises(Rejected, match="is of one spec"):
        tell("get", "models", "--generation", "2")


def test_a_spec_that_is_needed_stays_and_one_that_was_deleted_is_in_its_history(
    tell: Callable[..., str],
) -> None:
    with pytest.raises(Conflict, match=r"Source 'dropoffs' is needed by FeatureView/speed, Model/minutes"):
        tell("delete", "source/dropoffs")
    tell("model", "retire", "minutes", "--comment", "forbidden")
    for spec in ("model/minutes", "view/speed", "source/dropoffs"):
        tell("delete", spec, "--comment", "not needed")
    assert "deleted" in tell("history", "source/dropoffs")
    assert [each["name"] for each in json.loads(tell("get", "all", "--json"))] == ["pickups"]


def test_lineage_is_read_from_a_model_a_version_a_run_and_a_dataset(tell: Callable[..., str]) -> None:
    tree = tell("lineage", "model/minutes")
    for said in ("source/pickups (its rows)", "featureview/speed", "version 1", "version 2", "run/second"):
        assert said in tree
    assert "featureview/request" not in tree, "what a request brings is no view"
    one = json.loads(tell("lineage", "model/minutes@champion", "--json"))
    assert (one["what"], one["said"].split(", served")[0]) == ("model/minutes version 2", "live, champion")
    [run] = one["branches"]
    assert [each["what"] for each in run["branches"]] == [
        "dataset/dddddddddddd",
        "version 1",
        "loop/loop-second",
    ]
    assert "performance: better by 2 minutes" in run["branches"][2]["said"]

    back = json.loads(tell("lineage", "dataset/dddddddd", "--json"))
    assert [each["what"] for each in back["branches"]] == ["run/second", "run/first"]
    assert back["branches"][0]["branches"][0]["what"] == "model/minutes version 2"
    assert (
        json.loads(tell("lineage", "run/first", "--json"))["branches"][-1]["what"]
        == "model/minutes version 1"
    )
    with pytest.raises(Rejected, match="has no lineage: write model/NAME"):
        tell("lineage", "minutes")


def test_what_would_be_thrown_away_is_said_before_it_is(tell: Callable[..., str], registry: Harness) -> None:
    assert "nothing is older than 1d and needed by nothing" in tell("artifacts", "gc", "--dry-run")
    registry.clock.advance(3 * 86_400_000)
    asyncio.run(registry.consider("third", champion=2))
    asyncio.run(registry.report(errors={3: "it is no model"}))
    registry.clock.advance(3 * 86_400_000)
    said = json.loads(tell("artifacts", "gc", "--dry-run", "--json"))
    assert [(each["number"], each.get("files", 0)) for each in said["files"]] == [("3", 0)]
    assert "nothing's time has come" in tell("artifacts", "gc")


async def test_the_documents_of_a_history_have_whole_numbers(registry: Harness) -> None:
    from trimtab.managing import document
    from trimtab_contracts.registry.v1.registry_pb2 import Resource

    kept = documents()[0] | {"spec": {"partitions": 4, "rate": 0.5}}
    message = Resource(document=json_format.ParseDict(kept, Struct()))
    assert document(message)["spec"] == {"partitions": 4, "rate": 0.5}
    assert isinstance(document(message)["spec"]["partitions"], int)
