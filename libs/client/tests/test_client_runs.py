"""Runs at the command line: how far one is, how it ends, and how two differ."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc
import pytest
import typer
from google.protobuf.struct_pb2 import Struct
from trimtab.calling import Door
from trimtab.cli import watching
from trimtab.cli.runs import compared, reproduced, tried
from trimtab.client import Trimtab
from trimtab_contracts.registry.v1.registry_pb2 import Candidate, TableVersion
from trimtab_contracts.training.v1.training_pb2 import Progress, Reproduction, Run, RunEvent, Trial
from trimtab_runtime.errors import Rejected, Unavailable


def a_run(status: Any = RunEvent.STARTED, *, attempt: int = 1, id: str = "run-1", **more: Any) -> Run:
    progress = more.pop("progress", None)
    return Run(event=RunEvent(run_id=id, status=status, **more), attempt=attempt, progress=progress)


@pytest.mark.parametrize(
    ("run", "said", "share"),
    [
        (a_run(RunEvent.QUEUED, attempt=0), "waits for its turn", 0),
        (a_run(), "waits for its rows", 0),
        (a_run(progress=Progress(stage="WAITING", waits_for="x is behind")), "waits for its rows: x is behind", 0),
        (a_run(progress=Progress(stage="READING"), attempt=2), "reading (attempt 2)", 2),
        (a_run(progress=Progress(stage="FITTING", fit=1, fits=2)), "fitting 1 of 2", 4),
        (
            a_run(progress=Progress(stage="FITTING", fit=2, fits=2, iteration=5, iterations=10)),
            "fitting 2 of 2, iteration 5 of 10",
            68.5,
        ),
        (a_run(progress=Progress(stage="SEARCHING", trial=1, trials=4)), "trial 1 of 4", 4),
        (
            a_run(progress=Progress(stage="SEARCHING", trial=3, trials=4, best="mae 3.41 by linear", iteration=5, iterations=10)),
            "trial 3 of 4, best mae 3.41 by linear, iteration 5 of 10",
            32,
        ),
        (a_run(progress=Progress(stage="FITTING", fit=2, fits=2, trial=4, trials=4)), "fitting 2 of 2", 75),
        (a_run(progress=Progress(stage="STORING")), "storing", 98),
    ],
)  # fmt: skip
def test_where_a_run_is_is_said_in_a_few_words(run: Run, said: str, share: float) -> None:
    assert watching.said(run) == said
    assert watching.share(run.progress) == share


def test_a_trial_is_a_row_with_what_it_was_and_what_it_came_to() -> None:
    parameters = Struct()
    parameters.update({"learning_rate": 0.123456, "max_iter": 50, "loss": "gini"})
    good = Trial(
        number=3, family="x", parameters=parameters, metric="mae", value=2.5, outcome="COMPLETE", best=True
    )
    bad = Trial(number=4, family="x", metric="mae", outcome="FAILED", seconds=1.23, error="no room")

    assert tried(good) == {
        "trial": "3 *", "family": "x", "mae": "2.5", "outcome": "complete", "seconds": "0.0",
        "parameters": "learning_rate 0.123, loss gini, max_iter 50",
    }  # fmt: skip
    assert list(tried(bad).values()) == ["4", "x", None, "failed", "1.2", "no room"]


SUCCEEDED = a_run(RunEvent.SUCCEEDED, candidate=Candidate(rows=9, metrics={"mae": 3.25}))
FAILED = a_run(RunEvent.FAILED, error="there are 3 labelled rows")
CANCELLED = a_run(RunEvent.CANCELLED, cancelled_by="ann", cancel_reason="wrong window")


class Trainer:
    """Answers a watch with what it is given: runs, or a fault."""

    def __init__(self, *answers: Any) -> None:
        self.answers = list(answers)

    async def WatchRun(self, request: Any, **_: Any) -> AsyncIterator[Run]:
        while self.answers:
            answer = self.answers.pop(0)
            if isinstance(answer, Exception):
                raise answer
            yield answer


class Away(grpc.RpcError):
    def code(self) -> grpc.StatusCode:
        return grpc.StatusCode.UNAVAILABLE

    def details(self) -> str:
        return "no one is there"


def watched(monkeypatch: pytest.MonkeyPatch, *answers: Any, as_json: bool = False) -> None:
    async def named(_: Trimtab) -> str:
        return "run-1"

    def ask(_: Path, question: Any) -> Any:
        trimtab = Trimtab.__new__(Trimtab)
        trimtab._trainer = Door("trainer", Trainer(*answers))
        return asyncio.run(question(trimtab))

    monkeypatch.setattr(watching, "ask", ask)
    watching.watch(Path(), named, as_json=as_json)


def test_a_run_is_watched_over_the_restart_of_its_trainer(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    fitting = Progress(stage="FITTING", fit=3, fits=7)
    watched(monkeypatch, a_run(progress=fitting), Away(), a_run(attempt=2), SUCCEEDED)

    assert capsys.readouterr().out.splitlines() == [
        "fitting 3 of 7",
        "waits for its rows (attempt 2)",
        "run run-1 succeeded on 9 rows: mae 3.25",
    ]


def test_a_watch_ends_as_the_run_does(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(Rejected, match="run run-1 failed: there are 3 labelled rows"):
        watched(monkeypatch, FAILED)
    with pytest.raises(typer.Exit) as ended:
        watched(monkeypatch, CANCELLED)

    assert ended.value.exit_code == 3
    assert capsys.readouterr().err == "run run-1 was cancelled by ann: wrong window\n"


async def test_a_trainer_that_stays_away_ends_the_watch() -> None:
    trimtab = Trimtab.__new__(Trimtab)
    trimtab._trainer = Door("trainer", Trainer(Away()))

    with pytest.raises(Unavailable, match="trainer cannot answer: no one is there"):
        await anext(trimtab.watch_run("run-1", patience_s=-1))


def test_two_runs_are_compared_by_data_parameters_and_metrics() -> None:
    def made(id: str, version: int, mae: float, numpy: str) -> Run:
        candidate = Candidate(
            tables=[TableVersion(table="events/trips", version=version)],
            rows=9,
            dataset_digest="d" * 40,
            metrics={"mae": mae},
            environment={"numpy": numpy, "python": "3.11"},
        )
        candidate.parameters.update({"max_iter": 100})
        return a_run(RunEvent.SUCCEEDED, id=id, candidate=candidate)

    rows = {row["what"]: row for row in compared(made("a", 3, 2.5, "2.4.6"), made("b", 4, 2.5, "2.4.7"))}

    assert rows["table.events/trips"] == {"what": "table.events/trips", "a": 3, "b": 4, "same": False}
    assert rows["metric.mae"]["same"] and rows["parameter.max_iter"]["a"] == 100
    assert rows["dataset"]["a"] == "d" * 12
    assert not rows["environment.numpy"]["same"] and "environment.python" not in rows


def test_a_run_that_failed_is_compared_by_what_is_known_of_it() -> None:
    rows = {row["what"]: row for row in compared(FAILED, a_run(RunEvent.QUEUED, id="run-2"))}

    assert (rows["status"]["run-1"], rows["status"]["run-2"]) == ("failed", "queued")
    assert rows["rows"] == {"what": "rows", "run-1": None, "run-2": None, "same": True}


def test_of_a_run_made_again_what_came_out_and_what_differs_is_shown() -> None:
    kinds = Reproduction.Compared
    found = Reproduction(
        compared=[
            kinds(what="model.onnx", kind=kinds.OUTCOME, before="a" * 64, again="b" * 64),
            kinds(what="dataset", kind=kinds.INPUT, before="c" * 64, again="c" * 64, same=True),
            kinds(what="seed", kind=kinds.INPUT, before="7", again="7", same=True),
            kinds(what="environment numpy", kind=kinds.INPUT, before="2.4.5", again="2.4.6"),
        ]
    )

    shown = [tuple(row.values()) for row in reproduced(found, every=False)]

    assert shown == [
        ("model.onnx", "a" * 12, "b" * 12, "differs"),
        ("dataset", "c" * 12, "c" * 12, "✓"),
        ("environment numpy", "2.4.5", "2.4.6", "differs"),
    ]
    assert len(reproduced(found, every=True)) == 4
