"""Taking a file to the archive: each row in one place, whoever fails and whenever."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import pytest
from trimtab.backfill import Filling, Progress
from trimtab.cli.backfill import arrived_at
from trimtab.cli.ingest import stated_by
from trimtab.client import Backfilled
from trimtab.ingest import Job, Ready, Sending
from trimtab_core.specs import Source, parse
from trimtab_core.timestamps import NOT_A_TIME
from trimtab_runtime.errors import Rejected, Unavailable

DIGEST = "d" * 64
PART = 100
ROWS = 2 * PART + 10
BAD = {3, PART, PART + 1, ROWS}


@pytest.fixture(autouse=True)
def _small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("trimtab.backfill.MOST_ROWS", PART)


class Killed(Exception):
    """The process died."""


Fate = Callable[[int], Exception | None]


def at(number: int, error: Exception) -> Fate:
    return lambda call: error if call == number else None


def never(_: int) -> None:
    return None


class House:
    """An archive and a raw topic in memory; `archive` and `raw` say what a call ends with, once it has had its effect."""

    def __init__(self, *, before: Fate = never, archive: Fate = never, raw: Fate = never) -> None:
        self.until = 0
        self.archived: list[int] = []
        self.raw: list[str] = []
        self._calls = self._sends = 0
        self._before = before
        self._archive = archive
        self._raw = raw

    async def backfill(
        self,
        source: str,
        file: str,
        *,
        after: int,
        until: int,
        numbers: Sequence[int],
        rows: Sequence[bytes],
        arrived_at_ms: Sequence[int],
    ) -> Backfilled:
        self._calls += 1
        if error := self._before(self._calls):
            raise error
        if self.until >= until:
            return Backfilled(self.until)
        assert after == self.until
        if wrong := BAD.intersection(numbers):
            return Backfilled(self.until, refused={number: ["late at"] for number in sorted(wrong)})
        self.archived += numbers
        self.until = until
        if error := self._archive(self._calls):
            raise error
        return Backfilled(until, repeats=1)

    async def ingest(
        self, source: str, rows: Sequence[bytes], *, ids: Sequence[str], arrived_at_ms: Sequence[int]
    ) -> int:
        self._sends += 1
        self.raw += ids
        if error := self._raw(self._sends):
            raise error
        return len(rows)

    async def settle(self, source: str) -> None: ...

    async def ends(self, source: str) -> dict[int, int]:
        return {0: len(self.raw)}

    async def ids(self, source: str, since: Mapping[int, int], prefix: str) -> set[str]:
        return {each for each in self.raw[since[0] :] if each.startswith(prefix)}


def happened(row: Ready) -> int:
    return row.event_ms


async def fill(house: House, job: Job) -> Progress:
    async def sleep(seconds: float) -> None: ...

    refused = Sending(house, house, job, arrived=happened, sleep=sleep)
    filling = Filling(house, refused, job, until=house.until, arrived=happened, sleep=sleep)
    await filling.fill(Ready(n, job.id_of(n), b"{}", n) for n in range(house.until + 1, ROWS + 1))
    return filling.progress


async def test_rows_are_archived_and_those_refused_are_sent_where_they_become_dead_letters() -> None:
    house, job = House(), Job("s", DIGEST)
    progress = await fill(house, job)

    assert house.archived == [n for n in range(1, ROWS + 1) if n not in BAD]
    assert house.raw == [job.id_of(n) for n in sorted(BAD)]
    assert (progress.until, progress.archived, progress.repeats) == (ROWS, ROWS - len(BAD) - 3, 3)
    assert (progress.letters, progress.refused) == (4, {"late at": 4})


@pytest.mark.parametrize(
    "house",
    [
        *(House(before=at(n, Unavailable("away"))) for n in (1, 2, 4)),
        *(House(archive=at(n, Unavailable("away"))) for n in (2, 4)),
        House(raw=at(2, Unavailable("away"))),
    ],
)
async def test_an_outage_is_waited_out_and_nothing_is_lost_or_doubled(house: House) -> None:
    await fill(house, job := Job("s", DIGEST))

    assert house.archived == [n for n in range(1, ROWS + 1) if n not in BAD]
    assert house.raw == [job.id_of(n) for n in sorted(BAD)]


@pytest.mark.parametrize(
    "house",
    [
        *(House(before=at(n, Killed())) for n in (2, 3, 4, 6)),
        *(House(archive=at(n, Killed())) for n in (2, 4)),
        *(House(raw=at(n, Killed())) for n in (1, 2, 3)),
    ],
)
async def test_a_process_that_died_is_gone_on_with_by_the_next(tmp_path: Path, house: House) -> None:
    path = tmp_path / "job.json"
    with pytest.raises(Killed):
        await fill(house, Job.read(path, "s", DIGEST))
    await fill(house, job := Job.read(path, "s", DIGEST))

    assert house.archived == [n for n in range(1, ROWS + 1) if n not in BAD]
    assert house.raw == [job.id_of(n) for n in sorted(BAD)]


async def test_what_the_archive_refuses_ends_it_and_no_outage_is_waited_for_for_ever() -> None:
    with pytest.raises(Rejected, match="no"):
        await fill(House(before=at(1, Rejected("no"))), Job("s", DIGEST))
    now = iter(range(0, 10_000, 100))
    house, job = House(before=lambda _: Unavailable("away")), Job("s", DIGEST)

    async def sleep(seconds: float) -> None: ...

    refused = Sending(house, house, job, arrived=happened)
    filling = Filling(
        house, refused, job, until=0, arrived=happened, sleep=sleep, monotonic=lambda: float(next(now))
    )
    with pytest.raises(Unavailable, match="away"):
        await filling.fill([Ready(1, "d/1", b"{}", 1)])
    assert filling.progress.waits == "away"


def a_source() -> Source:
    fields = {
        "id": {"type": "string"},
        "at": {"type": "timestamp"},
        "seen": {"type": "timestamp", "timezone": "Europe/Zurich"},
    }
    spec = {"key": "id", "event_time": "at", "lateness": "1h", "fields": fields}
    return parse("Source", {"metadata": {"name": "s"}, "spec": spec})  # type: ignore[return-value]


def test_a_row_arrived_when_a_field_says_or_when_it_happened_and_never_later_than_now() -> None:
    stated = stated_by(a_source(), "seen")({"seen": "2020-01-01T02:00:00"})
    far = 2**42
    rows = [
        Ready(1, "1", b"", 5_000, stated),
        Ready(2, "2", b"", 5_000),
        Ready(3, "3", b"", far),
        Ready(4, "4", b"", NOT_A_TIME),
    ]
    arrived = [arrived_at(row) for row in rows]

    assert stated == 1_577_840_400_000
    assert arrived[:2] == [stated, 5_000]
    assert all(stated < each < far for each in arrived[2:])
    assert stated_by(a_source(), "seen")({"seen": "soon"}) == NOT_A_TIME


def test_only_a_timestamp_says_when_a_row_arrived() -> None:
    with pytest.raises(Rejected, match="'id' is no timestamp of source 's': name one of at, seen"):
        stated_by(a_source(), "id")
