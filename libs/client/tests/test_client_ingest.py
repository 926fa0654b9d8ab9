"""Sending a file's rows: each once, whatever fails and whenever; at a pace, if one is wished."""

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
from trimtab.client import MOST_REQUEST_BYTES, MOST_ROWS, SERVICES, Trimtab, _requests
from trimtab.ingest import Job, Progress, Ready, Sending
from trimtab_core.timestamps import NOT_A_TIME
from trimtab_runtime.errors import Rejected, Unavailable


class Killed(Exception):
    """The process died."""


class Kafka:
    """A door and a log in memory: `fate` says of each request how many of its rows get in, and what is answered."""

    def __init__(
        self, fate: Callable[[int], tuple[int | None, Exception | None]] = lambda _: (None, None)
    ) -> None:
        self.records: list[tuple[str, bytes, int]] = []
        self.on_their_way: list[tuple[str, bytes, int]] = []
        self.requests = 0
        self.reads: list[dict[int, int]] = []
        self._fate = fate

    async def ingest(
        self, source: str, rows: Sequence[bytes], *, ids: Sequence[str], arrived_at_ms: Sequence[int]
    ) -> int:
        self.requests += 1
        taken, error = self._fate(self.requests)
        records = list(zip(ids, rows, arrived_at_ms, strict=True))
        if error is None:
            self.records += records
            return len(rows)
        # Some had arrived; others, that nobody heard of any more, arrive later.
        half = (taken or 0) // 2
        self.records += records[:half]
        self.on_their_way = records[half:taken]
        raise error

    async def settle(self, source: str) -> None:
        self.records += self.on_their_way
        self.on_their_way = []

    async def ends(self, source: str) -> dict[int, int]:
        return {0: len(self.records)}

    async def ids(self, source: str, since: Mapping[int, int], prefix: str) -> set[str]:
        self.reads.append(dict(since))
        return {name for name, *_ in self.records[since[0] :] if name.startswith(prefix)}

    @property
    def ids_in_order(self) -> list[str]:
        return [name for name, *_ in self.records]


class Wall:
    """A wall clock that moves when somebody sleeps."""

    def __init__(self) -> None:
        self.now_s = 0.0

    async def sleep(self, seconds: float) -> None:
        self.now_s += seconds

    def monotonic(self) -> float:
        return self.now_s


def rows(job: Job, count: int, *, every_ms: int = 1000, size: int = 10) -> list[Ready]:
    """What is left to be sent of a file of `count` rows."""
    numbers = range(job.acknowledged + 1, count + 1)
    return [Ready(n, job.id_of(n), b"x" * size, n * every_ms) for n in numbers]


async def send(kafka: Kafka, job: Job, ready: Sequence[Ready], **options: Any) -> Progress:
    wall = options.pop("wall", None) or Wall()
    sending = Sending(
        kafka,
        kafka,
        job,
        arrived=lambda row: row.event_ms,
        sleep=wall.sleep,
        monotonic=wall.monotonic,
        **options,
    )
    await sending.send(ready)
    return sending.progress


@pytest.mark.parametrize("taken", [0, 1, 1000, 2000])
async def test_whatever_of_a_request_that_failed_got_in_is_not_sent_again(taken: int) -> None:
    kafka, job = (
        Kafka(lambda n: (taken, Unavailable("away")) if n in (2, 3) else (None, None)),
        Job("s", "d" * 64),
    )

    progress = await send(kafka, job, rows(job, 5_000))

    assert sorted(kafka.ids_in_order, key=lambda name: int(name[17:])) == [
        job.id_of(n) for n in range(1, 5_001)
    ]
    assert (job.acknowledged, progress.sent + progress.found) == (5_000, 5_000)


@pytest.mark.parametrize("died_at", [1, 2, 3])
@pytest.mark.parametrize("taken", [0, 700, 2000])
async def test_a_process_that_died_is_gone_on_with_by_the_next(
    tmp_path: Path, died_at: int, taken: int
) -> None:
    path, digest = tmp_path / "job.json", "d" * 64
    kafka = Kafka(lambda n: (taken, Killed()) if n == died_at else (None, None))
    with pytest.raises(Killed):
        await send(kafka, job := Job.read(path, "s", digest), rows(job, 5_000))

    job = Job.read(path, "s", digest)
    assert job.acknowledged == (died_at - 1) * MOST_ROWS
    await send(kafka, job, rows(job, 5_000))

    assert len(kafka.ids_in_order) == len(set(kafka.ids_in_order)) == 5_000
    assert [len(kafka.reads), kafka.reads[0]] == [1, {0: 0}]
    done = Job.read(path, "s", digest)
    assert (done.acknowledged, done.ends) == (5_000, None)


async def test_a_file_that_is_in_already_is_not_sent_again(tmp_path: Path) -> None:
    kafka, path = Kafka(), tmp_path / "job.json"
    await send(kafka, job := Job.read(path, "s", "d"), rows(job, 10))

    progress = await send(kafka, job := Job.read(path, "s", "d"), rows(job, 12))

    assert (progress.sent, len(kafka.records), kafka.reads) == (2, 12, [])


async def test_what_must_be_read_when_going_on_does_not_grow_with_the_file() -> None:
    kafka = Kafka(lambda n: (0, Unavailable("away")) if n == 100 else (None, None))

    await send(kafka, job := Job("s", "d"), rows(job, 220_000))

    assert kafka.reads == [{0: 100_000}]


async def test_an_outage_is_told_and_waited_for_only_so_long(tmp_path: Path) -> None:
    kafka, told, wall = Kafka(lambda n: (0, Unavailable("ingestion is away"))), [], Wall()
    job = Job.read(tmp_path / "job.json", "s", "d")

    with pytest.raises(Unavailable, match="ingestion is away"):
        await send(
            kafka, job, rows(job, 10), wall=wall, patience_s=60, on_progress=lambda it: told.append(it.waits)
        )

    assert set(told) == {"ingestion is away"}
    assert 60 < wall.now_s < 63
    assert Job.read(tmp_path / "job.json", "s", "d").ends == {0: 0}


async def test_what_the_source_refuses_ends_it_at_once() -> None:
    kafka = Kafka(lambda n: (0, Rejected("no")))

    with pytest.raises(Rejected):
        await send(kafka, job := Job("s", "d"), rows(job, 10))

    assert kafka.requests == 1


async def test_at_a_speed_rows_go_in_when_they_are_due_and_those_that_go_back_at_once() -> None:
    kafka, job, wall, times = Kafka(), Job("s", "d"), Wall(), []
    event_ms = [0, 60_000, 60_000, 30_000, NOT_A_TIME, 180_000]
    ready = [Ready(n, job.id_of(n), b"{}", at) for n, at in enumerate(event_ms, start=1)]

    await send(
        kafka,
        job,
        ready,
        wall=wall,
        speed=60.0,
        on_progress=lambda it: times.append((wall.now_s, it.sent, it.waits)),
    )

    assert [(at, sent) for at, sent, waits in times if not waits] == [(0.0, 1), (1.0, 5), (3.0, 6)]
    assert times[2] == (1.0, 5, "until it is 1970-01-01T00:03:00.000Z at this speed")


async def test_rows_of_a_pipe_are_not_held_back_for_those_to_come() -> None:
    kafka, job = Kafka(), Job("s", "d")

    await send(kafka, job, rows(job, 3), idle=lambda: True)

    assert kafka.requests == 3


async def test_a_job_that_cannot_be_read_is_not_guessed_at(tmp_path: Path) -> None:
    (tmp_path / "job.json").write_text('{"acknowledged": ')

    with pytest.raises(Rejected, match="remove it, and all rows are sent anew"):
        Job.read(tmp_path / "job.json", "s", "d")


def test_requests_are_cut_by_count_and_by_bytes_with_what_goes_along() -> None:
    big = b"x" * (MOST_REQUEST_BYTES // 2 + 1)
    payloads = [b"{}"] * (MOST_ROWS + 1) + [big, big]
    ids = [str(n) for n in range(len(payloads))]

    requests = list(_requests("s", payloads, ids, range(len(payloads))))

    assert [len(each.rows) for each in requests] == [MOST_ROWS, 2, 1]
    assert [name for each in requests for name in each.ids] == ids
    assert [at for each in requests for at in each.arrived_at_ms] == list(range(len(payloads)))
    assert list(_requests("s", [], [], [])) == []
    assert json.loads(next(iter(_requests("s", [{"x": 1}], [], []))).rows[0]) == {"x": 1}
    with pytest.raises(Rejected, match="more ids or arrivals than rows"):
        list(_requests("s", [b"{}"], ["1", "2"], []))


async def test_each_instance_of_ingestion_is_asked_to_settle() -> None:
    asked: list[str] = []

    class Channel:
        def __init__(self, name: str) -> None:
            self.name = name

        def unary_unary(self, method: str, **_: Any) -> Any:
            async def call(request: Any, **__: Any) -> None:
                asked.append(self.name)

            return call

        stream_unary = unary_stream = stream_stream = unary_unary

    names = SERVICES
    channels: dict[str, Any] = {name: Channel(name) for name in names}
    instances: list[Any] = [Channel("one"), Channel("two")]

    await Trimtab(channels, instances=instances).settle("s")
    await Trimtab(channels).settle("s")

    assert asked == ["one", "two", "ingestion"]
