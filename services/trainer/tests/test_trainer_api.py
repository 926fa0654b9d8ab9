"""The trainer's door: what an order becomes."""

import hashlib
from collections.abc import AsyncIterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from trimtab_contracts import topics
from trimtab_contracts.registry.v1.registry_pb2 import Candidate, Member
from trimtab_contracts.training.v1.training_pb2 import (
    CombineRequest,
    GetRunRequest,
    ListRunsRequest,
    ListTrialsRequest,
    NoteRunRequest,
    RegisterRequest,
    RetrainCommand,
    RunEvent,
    TrainRequest,
    Trial,
    UploadRequest,
)
from trimtab_core.specs import parse
from trimtab_runtime.clock import ManualClock, from_timestamp, to_timestamp
from trimtab_runtime.errors import NotFound, Rejected
from trimtab_runtime.specbook import SpecBook
from trimtab_trainer import messages
from trimtab_trainer.errors import BadEnsemble, BadNote, NothingArchived, UnknownRun
from trimtab_trainer.grpc_api import TrainerApi
from trimtab_trainer.orders import Orders
from trimtab_trainer.sandbox import Files
from trimtab_trainer.testing import MemoryStore
from trimtab_trainer.uploads import MOST_BYTES, Uploads
from trimtab_trainer.usecases.entities import Job, News, Status
from trimtab_training import trials
from trimtab_training.trials import Outcome

NOW, REACHED = 9_000_000, 5_000_000
NOWHERE = Path("nowhere")


class Producer:
    """Keeps what is sent."""

    def __init__(self) -> None:
        self.sent: list[RetrainCommand] = []

    async def send(self, topic: str, *, value: bytes, **rest: Any) -> Any:
        self.sent.append(topics.COMMANDS_RETRAIN.decode(value))

        async def written() -> None: ...

        return written()


def an_api(
    reached_ms: int | None, data_dir: Path = NOWHERE, store: MemoryStore | None = None
) -> tuple[TrainerApi, Producer]:
    book, producer = SpecBook(), Producer()
    spec = {
        "task": "binary",
        "source": "trips",
        "features": ["request.x"],
        "label": {"source": "trips", "on": "id", "value": "y", "within": "1h"},
        "trainer": {"window": "30d"},
    }
    book.put(parse("Model", {"metadata": {"name": "m"}, "spec": spec}))

    async def watermark_ms(model: str) -> int | None:
        return reached_ms

    features: Any = SimpleNamespace(watermark_ms=watermark_ms)
    clock = ManualClock(NOW)
    uploads, orders = Uploads(Files(data_dir), data_dir / "uploads"), Orders(book, features, producer, clock)
    unasked: Any = None
    return TrainerApi(store or MemoryStore(), orders, unasked, uploads, clock), producer


async def test_an_order_without_a_time_is_as_of_how_far_the_archive_has_come() -> None:
    api, producer = an_api(REACHED)
    answer = await api.Train(TrainRequest(model="m", reason="why not", requested_by="ann"), None)

    [command] = producer.sent
    assert from_timestamp(command.as_of) == REACHED
    assert command.id == command.loop_id == answer.command_id
    assert (command.trigger, command.requested_by) == ("manual", "ann")


@pytest.mark.parametrize("reached_ms", [REACHED, None])
async def test_an_order_with_a_time_keeps_it(reached_ms: int | None) -> None:
    api, producer = an_api(reached_ms)
    await api.Train(TrainRequest(model="m", as_of=to_timestamp(7_000_000)), None)

    assert from_timestamp(producer.sent[0].as_of) == 7_000_000


async def test_an_order_for_what_has_nothing_archived_is_refused_with_a_way_on() -> None:
    api, producer = an_api(None)
    with pytest.raises(NothingArchived, match="model 'm' has nothing to be trained on"):
        await api.Train(TrainRequest(model="m"), None)

    assert not producer.sent


async def test_an_order_for_no_model_is_refused() -> None:
    with pytest.raises(NotFound, match="'x'"):
        await an_api(REACHED)[0].Train(TrainRequest(model="x"), None)


async def test_less_than_no_runs_cannot_be_listed() -> None:
    api, _ = an_api(REACHED)

    with pytest.raises(Rejected, match=r"^limit -1 is below 0: ask for some, or leave it out for 50$"):
        await api.ListRuns(ListRunsRequest(limit=-1), None)


async def test_the_trials_of_a_run_are_told_with_the_best_marked_and_counted_from_one() -> None:
    store = MemoryStore()
    api, _ = an_api(REACHED, store=store)
    with pytest.raises(UnknownRun):
        await api.ListTrials(ListTrialsRequest(run_id="run-1"), None)
    await store.add(News(Job("run-1", "c", "m", "l", "data", 1, None, queued_at_ms=1), Status.QUEUED, 1))
    job = await store.claim("me", now_ms=2, lease_ms=1_000)
    assert job
    made = [
        trials.Trial(
            0, "linear", {"alpha": 1.5, "solver": "svd"}, "mae", Outcome.COMPLETE, (4.0, 3.0), 1.0, 1.0
        ),
        trials.Trial(1, "linear", {}, "mae", Outcome.COMPLETE, (3.0, 2.0), 1.0, 2.0),
        trials.Trial(2, "linear", {}, "mae", Outcome.PRUNED, (1.0,), 1.0, 3.0),
        trials.Trial(3, "linear", {}, "mae", Outcome.FAILED, (), 1.0, 4.0, error="singular"),
    ]
    await store.keep_trials(job, "me", made, of="rows")

    told = (await api.ListTrials(ListTrialsRequest(run_id="run-1"), None)).trials

    assert [(it.number, it.value, it.best) for it in told][:3] == [
        (1, 3.0, False),
        (2, 2.0, True),
        (3, 1.0, False),
    ]
    assert dict(told[0].parameters) == {"alpha": 1.5, "solver": "svd"}
    assert not told[3].HasField("value")
    assert (told[3].outcome, told[3].error) == (Trial.FAILED, "singular")


CONTENT = b"x" * 1000
DIGEST = hashlib.sha256(CONTENT).hexdigest()


def files_in(folder: Path) -> list[bytes]:
    return [path.read_bytes() for path in folder.rglob("*") if path.is_file()]


async def parts(
    content: bytes = CONTENT, *, size: int = len(CONTENT), digest: str = DIGEST
) -> AsyncIterator[UploadRequest]:
    yield UploadRequest(file=UploadRequest.File(name="m.onnx", digest=digest, size=size))
    for at in range(0, len(content), 300):
        yield UploadRequest(content=content[at : at + 300])


async def test_a_file_is_kept_by_its_digest_and_may_be_sent_again(tmp_path: Path) -> None:
    api, _ = an_api(REACHED, tmp_path)
    first = (await api.Upload(parts(), None)).artifact
    again = (await api.Upload(parts(), None)).artifact

    assert first == again
    assert (first.digest, first.size) == (DIGEST, len(CONTENT))
    assert first.uri == str(tmp_path / "artifacts" / DIGEST[:2] / DIGEST)
    assert files_in(tmp_path) == [CONTENT]


@pytest.mark.parametrize(
    ("sent", "said"),
    [
        (parts(CONTENT[:-1]), "came as 999 bytes of sha256 .*, and 1,000 of .* were announced"),
        (
            parts(digest="0" * 64),
            "came as 1,000 bytes of sha256 .*, and 1,000 of 000000000000 were announced",
        ),
        (parts(CONTENT + b"y"), "is longer than the 1,000 bytes that were announced"),
        (
            parts(size=MOST_BYTES + 1),
            "has 1,073,741,825 bytes, and a file has 1 to 1,073,741,824: send a smaller one",
        ),
        (parts(digest=""), "the first part of an upload says what is sent"),
    ],
)
async def test_a_file_that_is_cut_off_or_something_else_leaves_nothing(
    tmp_path: Path, sent: AsyncIterator[UploadRequest], said: str
) -> None:
    api, _ = an_api(REACHED, tmp_path)
    with pytest.raises(Rejected, match=said):
        await api.Upload(sent, None)

    assert files_in(tmp_path) == []


async def test_a_model_that_was_uploaded_is_ordered_to_be_judged(tmp_path: Path) -> None:
    api, producer = an_api(REACHED, tmp_path)
    await api.Upload(parts(), None)
    request = RegisterRequest(model="m", digest=DIGEST, origin="m.onnx", comment="ours", requested_by="ann")
    answer = await api.Register(request, None)

    [command] = producer.sent
    assert (command.id, command.trigger, command.requested_by) == (answer.command_id, "registered", "ann")
    assert command.reason == "m.onnx is registered: ours"
    assert command.registered.model.digest == DIGEST
    assert not command.registered.HasField("reference")
    assert not command.registered.HasField("trained_to")
    assert from_timestamp(command.as_of) == REACHED


@pytest.mark.parametrize("digest", ["0" * 64, "../../etc/passwd", ""])
async def test_a_model_that_was_not_uploaded_is_not_found(tmp_path: Path, digest: str) -> None:
    api, producer = an_api(REACHED, tmp_path)
    with pytest.raises(NotFound, match=r"no file of digest .* is stored: send it first"):
        await api.Register(RegisterRequest(model="m", digest=digest), None)

    assert not producer.sent


class Runs:
    """Knows what two runs made of model m, and of another's."""

    async def get(self, run_id: str) -> Any:
        made = Candidate(features=["request.x"], trained_to=to_timestamp(int(run_id[-1]) * 1000))
        made.model.digest = run_id
        made.document.update({"spec": {"task": "binary"}})
        event = RunEvent(model="m" if run_id != "run-9" else "other", candidate=made)
        return SimpleNamespace(message=event.SerializeToString()) if run_id != "run-0" else None


def members(*told: tuple[int, float]) -> list[Member]:
    return [Member(version=number, run_id=f"run-{number}", weight=weight) for number, weight in told]


@pytest.mark.parametrize(("weights", "shares"), [((0.0, 0.0), [0.5, 0.5]), ((3.0, 1.0), [0.75, 0.25])])
async def test_versions_are_ordered_to_be_one_that_has_seen_what_any_of_them_has(
    weights: tuple[float, float], shares: list[float]
) -> None:
    store: Any = Runs()
    api, producer = an_api(REACHED, store=store)
    named = members((5, weights[0]), (3, weights[1]))
    await api.Combine(CombineRequest(model="m", members=named, comment="both", requested_by="ann"), None)

    [command] = producer.sent
    assert (command.trigger, command.requested_by) == ("registered", "ann")
    assert command.reason == f"versions 5 ({shares[0]}) and 3 ({shares[1]}) are combined: both"
    found = [
        (each.member.version, each.member.weight, each.version.model.digest, each.task)
        for each in command.registered.parts
    ]
    assert found == [(5, shares[0], "run-5", "binary"), (3, shares[1], "run-3", "binary")]
    assert from_timestamp(command.registered.trained_to) == 5000
    brought = messages.registered(command.registered)
    assert (brought.model, [part.version for part in brought.parts]) == (None, [5, 3])


@pytest.mark.parametrize(
    ("named", "said"),
    [
        ([(3, 0)], "members are 3: name two versions or more, each once"),
        ([(3, 1), (3, 2)], "members are 3, 3: name two versions or more, each once"),
        ([(3, 1), (5, 0)], "the weight of version 5 is 0: write a number over 0"),
        ([(3, 1), (5, float("nan"))], "the weight of version 5 is nan"),
        ([(3, 1), (9, 1)], "run 'run-9' made no version of model 'm': name versions of that model"),
        ([(3, 1), (0, 1)], "run-0"),
    ],
)
async def test_versions_that_cannot_be_weighed_are_refused(named: list[tuple[int, float]], said: str) -> None:
    store: Any = Runs()
    api, producer = an_api(REACHED, store=store)
    with pytest.raises((BadEnsemble, UnknownRun), match=said):
        await api.Combine(CombineRequest(model="m", members=members(*named)), None)

    assert not producer.sent


async def test_a_note_is_kept_with_who_wrote_it_and_when() -> None:
    api, _ = an_api(REACHED)
    job = Job("run-1", "c", "m", "l", "manual", 5_000, None, queued_at_ms=1)
    await api._store.add(News(job, Status.QUEUED, 1))

    await api.NoteRun(NoteRunRequest(run_id="run-1", text=" the zones moved \n", by="ann"), None)

    [note] = (await api.GetRun(GetRunRequest(run_id="run-1"), None)).notes
    assert (note.text, note.by, from_timestamp(note.at)) == ("the zones moved", "ann", NOW)


@pytest.mark.parametrize(
    ("text", "by", "said"),
    [
        (" ", "ann", "text has 0 characters: write a note of 1 to 4,000"),
        ("x" * 4_001, "ann", "text has 4001 characters"),
        ("x", "", "by is empty: say who writes the note"),
    ],
)
async def test_a_note_that_says_nothing_or_is_nobodys_is_refused(text: str, by: str, said: str) -> None:
    with pytest.raises(BadNote, match=said):
        await an_api(REACHED)[0].NoteRun(NoteRunRequest(run_id="run-1", text=text, by=by), None)
