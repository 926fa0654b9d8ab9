import errno
import os
from pathlib import Path

import pytest
from trimtab_serving import journal
from trimtab_serving.journal import Journal

KIB = 1024


def open_journal(path: Path, *, limit: int = 10_000_000) -> Journal:
    return Journal(path, limit)


def drained(kept: Journal) -> list[bytes]:
    found: list[bytes] = []
    while True:
        entries, place = kept.read()
        if not entries:
            return found
        found += entries
        kept.acknowledge(place)


def test_entries_come_back_in_order(tmp_path: Path) -> None:
    with open_journal(tmp_path) as kept:
        kept.append([b"one", b"two"])
        kept.append([b"three"])

        assert drained(kept) == [b"one", b"two", b"three"]
        assert kept.is_empty


def test_what_was_not_acknowledged_survives_the_process(tmp_path: Path) -> None:
    with open_journal(tmp_path) as kept:
        kept.append([b"sent"])
        kept.acknowledge(kept.read()[1])
        kept.append([b"read but not acknowledged", b"never read"])
        kept.read()

    with open_journal(tmp_path) as kept:
        assert drained(kept) == [b"read but not acknowledged", b"never read"]


def test_a_reader_that_failed_reads_again_from_what_was_acknowledged(tmp_path: Path) -> None:
    with open_journal(tmp_path) as kept:
        kept.append([b"one", b"two"])
        kept.read()
        kept.rewind()

        assert drained(kept) == [b"one", b"two"]


def test_a_torn_end_is_cut_off_and_written_over(tmp_path: Path) -> None:
    with open_journal(tmp_path) as kept:
        kept.append([b"whole"])
    segment = next(tmp_path.glob("*.segment"))
    segment.write_bytes(segment.read_bytes() + b"\x40\0\0\0half of an ent")

    with open_journal(tmp_path) as kept:
        kept.append([b"next"])

        assert drained(kept) == [b"whole", b"next"]


def test_a_full_journal_takes_nothing_and_says_so_until_there_is_room(tmp_path: Path) -> None:
    with open_journal(tmp_path, limit=10 * KIB) as kept:
        assert kept.append([b"x" * 8 * KIB])
        assert not kept.append([b"y" * 4 * KIB])
        drained(kept)

        assert kept.append([b"z" * 4 * KIB])
        assert drained(kept) == [b"z" * 4 * KIB]


def test_acknowledged_files_are_deleted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(journal, "_SEGMENT_BYTES", KIB)
    with open_journal(tmp_path) as kept:
        for number in range(50):
            kept.append([bytes([number]) * 200])
        assert len(list(tmp_path.glob("*.segment"))) > 5

        assert drained(kept) == [bytes([number]) * 200 for number in range(50)]
        assert len(list(tmp_path.glob("*.segment"))) == 1


def test_the_journal_does_not_grow_while_everything_is_acknowledged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(journal, "_SEGMENT_BYTES", KIB)
    with open_journal(tmp_path, limit=4 * KIB) as kept:
        for _ in range(100):
            assert kept.append([b"x" * 300])
            drained(kept)

        assert sum(path.stat().st_size for path in tmp_path.glob("*.segment")) < 4 * KIB


def test_a_full_disk_takes_nothing_and_tears_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write = os.write
    with open_journal(tmp_path) as kept:
        kept.append([b"before"])
        monkeypatch.setattr(os, "write", lambda file, content: write(file, content[:7]))
        assert not kept.append([b"half of it is written"])
        monkeypatch.setattr(os, "write", write)
        assert kept.append([b"after"])

        assert drained(kept) == [b"before", b"after"]


def test_rubbish_in_the_middle_is_left_out_and_what_follows_is_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(journal, "_SEGMENT_BYTES", 1)
    with open_journal(tmp_path) as kept:
        for entry in (b"first", b"second", b"third"):
            kept.append([entry])
        second = sorted(tmp_path.glob("*.segment"))[1]
        second.write_bytes(b"\0" * len(second.read_bytes()))

        found: list[bytes] = []
        while not kept.is_empty:
            entries, place = kept.read()
            found += entries
            kept.acknowledge(place)

    assert found == [b"first", b"third"]


def test_a_disk_that_is_full_takes_no_more_and_ends_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(journal, "_SEGMENT_BYTES", 10)
    with open_journal(tmp_path) as kept:
        assert kept.append([b"the first segment"])
        with monkeypatch.context() as full:
            full.setattr(journal.os, "open", no_space)
            full.setattr(journal.os, "pwrite", no_space)

            assert not kept.append([b"lost"])
            entries, place = kept.read()
            kept.acknowledge(place)

        assert (entries, kept.is_empty) == ([b"the first segment"], True)
        assert kept.append([b"there is room again"])
        assert drained(kept) == [b"there is room again"]


def no_space(*_: object) -> None:
    raise OSError(errno.ENOSPC, "No space left on device")
