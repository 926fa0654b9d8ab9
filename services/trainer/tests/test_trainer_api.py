"""The trainer's door: what an order becomes."""

from types import SimpleNamespace
from typing import Any

import pytest
from trimtab_contracts import topics
from trimtab_contracts.training.v1.training_pb2 import (
    GetRunRequest,
    NoteRunRequest,
    RetrainCommand,
    TrainRequest,
)
from trimtab_core.specs import parse
from trimtab_runtime.clock import ManualClock, from_timestamp, to_timestamp
from trimtab_runtime.errors import NotFound
from trimtab_runtime.specbook import SpecBook
from trimtab_trainer.errors import BadNote, NothingArchived
from trimtab_trainer.grpc_api import TrainerApi
from trimtab_trainer.testing import MemoryStore
from trimtab_trainer.usecases.entities import Job, News, Status

NOW, REACHED = 9_000_000, 5_000_000


class Producer:
    """Keeps what is sent."""

    def __init__(self) -> None:
        self.sent: list[RetrainCommand] = []

    async def send(self, topic: str, *, value: bytes, **rest: Any) -> Any:
        self.sent.append(topics.COMMANDS_RETRAIN.decode(value))

        async def written() -> None: ...

        return written()


def an_api(reached_ms: int | None) -> tuple[TrainerApi, Producer]:
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
    return TrainerApi(MemoryStore(), book, features, producer, ManualClock(NOW)), producer


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
