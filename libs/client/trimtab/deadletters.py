"""Finds dead letters, and sends rows again once their cause is mended.

All is read from Kafka as it lies there. The newest record of a letter counts. To send
a letter twice, or while another does, is harmless: ingestion takes it once.
"""

import logging
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass

from trimtab_contracts import topics
from trimtab_contracts.ingestion.v1.ingestion_pb2 import DeadLetter
from trimtab_runtime import bus, records
from trimtab_runtime.clock import from_timestamp, iso
from trimtab_runtime.errors import NotFound, Rejected
from trimtab_runtime.records import CONTENT_TYPE, REPLAY_OF, Outgoing

from trimtab.reading import committed

log = logging.getLogger(__name__)

WAITING, AGAIN, REPLAYED, NOT_KNOWN = "waiting", "refused again", "replayed", "not known"


@dataclass(frozen=True, slots=True)
class Found:
    """A dead letter, when it was refused last, and what has become of it since."""

    letter: DeadLetter
    refused_ms: int
    state: str
    """`waiting`, `refused again`, `replayed` (an event by now, or a repeat of one), or `not known`."""


@dataclass(frozen=True, slots=True)
class Query:
    """Which letters are meant; what is empty excludes none."""

    source: str = ""
    reason: str = ""
    field: str = ""
    since_ms: int | None = None

    def fits(self, letter: DeadLetter) -> bool:
        """Whether `letter` is meant."""
        if self.source and letter.source != self.source:
            return False
        return not (self.reason or self.field) or any(
            self.reason in ("", reason.code) and self.field in ("", reason.field) for reason in letter.reasons
        )


async def find(servers: str, query: Query, ids: Collection[str] = ()) -> list[Found]:
    """Return the letters that are meant, those of `ids` if there are some, the one refused last at the end.

    Raises:
        Unavailable: Kafka cannot be read.
    """
    newest: dict[str, tuple[int, bool, DeadLetter]] = {}
    async for record in committed(servers, topics.DEADLETTER.name, query.since_ms):
        try:
            letter = topics.DEADLETTER.decode(record.value)
        except topics.Undecodable as error:
            log.warning("deadletter/%d/%d is left out: %s", record.partition, record.offset, error)
            continue
        if ids and letter.id not in ids:
            continue
        if letter.id not in newest or newest[letter.id][0] <= record.timestamp:
            again = any(name == REPLAY_OF for name, _ in record.headers)
            newest[letter.id] = (record.timestamp, again, letter)
    meant = sorted((each for each in newest.values() if query.fits(each[2])), key=lambda each: each[0])
    replayed = await _replayed(servers, {letter.topic for *_, letter in meant if not why_not(letter)})
    return [Found(letter, at, _state(letter, again, replayed)) for at, again, letter in meant]


async def replay(servers: str, letters: Iterable[DeadLetter]) -> None:
    """Send the rows of letters again, each to where it came from, as it arrived then.

    Raises:
        KafkaError: Kafka did not take them all; to send them once more is harmless.
    """
    async with bus.open_producer(servers) as producer:
        await records.send_all(producer, [_sent_again(letter) for letter in letters])


def why_not(letter: DeadLetter) -> str:
    """Return why a letter cannot be replayed, as a sentence; nothing if it can."""
    if not letter.topic.startswith(topics.RAW.named("").name):
        return (
            f"{letter.id} cannot be replayed, for it lay on {letter.topic} and only what a producer sent to "
            "raw.<source> can be: mend what its reasons name where it was written"
        )
    if said := [reason.message for reason in letter.reasons if reason.code == bus.CUT]:
        return f"{letter.id} cannot be replayed, for {said[0]}: send the row itself again, to its source"
    if len(letter.payload) >= topics.MOST_ROW_BYTES:
        return (
            f"{letter.id} cannot be replayed, for a letter keeps {topics.MOST_ROW_BYTES} bytes of a row and this one may have "
            "had more: send the row itself again, to its source"
        )
    return ""


def chosen(found: Sequence[Found], ids: Sequence[str]) -> None:
    """Check that each of `ids` was found and can be replayed.

    Raises:
        NotFound: there is no such letter.
        Rejected: one cannot be replayed; it says why.
    """
    letters = {each.letter.id: each.letter for each in found}
    for named in ids:
        if named not in letters:
            raise NotFound(
                f"there is no dead letter {named!r} among those that are meant: look at `trimtab deadletter list`"
            )
        if said := why_not(letters[named]):
            raise Rejected(said)


def _sent_again(letter: DeadLetter) -> Outgoing:
    headers = [
        ("ce_arrivedat", iso(from_timestamp(letter.arrived_at)).encode()),
        (REPLAY_OF, letter.id.encode()),
    ]
    if letter.row_id:
        headers.append(("ce_id", letter.row_id))
    if letter.content_type:
        headers.append((CONTENT_TYPE, letter.content_type.encode()))
    return Outgoing(letter.topic, letter.key or None, letter.payload, headers, letter.partition)


def _state(letter: DeadLetter, again: bool, replayed: Collection[str]) -> str:
    if why_not(letter):
        return NOT_KNOWN
    return REPLAYED if letter.id in replayed else AGAIN if again else WAITING


async def _replayed(servers: str, raw_topics: Iterable[str]) -> set[str]:
    """Return the ids of all letters of some raw topics whose replay was taken."""
    found = set()
    for raw in raw_topics:
        async for record in committed(servers, topics.SEEN.named(topics.RAW.member(raw)).name):
            if record.value is not None:
                told = topics.SEEN.decode(record.value)
                found |= {f"{raw}/{record.partition}/{offset}" for offset in told.replayed}
    return found
