from collections.abc import Iterator
from pathlib import Path

import pytest
from trimtab_runtime.errors import Unavailable
from trimtab_serving.mirror import Mirror, Stored
from trimtab_serving.testing import Raw

MIB = 1024 * 1024


def raw(offset: int, key: bytes | None, value: bytes | None, *, trace: str = "") -> Raw:
    return Raw("t", 0, offset, key, value, [("traceparent", trace.encode())] if trace else [])


@pytest.fixture
def mirror(tmp_path: Path) -> Iterator[Mirror]:
    with Mirror(tmp_path, 4 * MIB) as opened:
        yield opened


async def test_the_newest_record_of_a_key_is_kept_with_its_trace(mirror: Mirror) -> None:
    mirror.put(
        "t", 3, [raw(0, b"a", b"old"), raw(1, b"a", b"new", trace="00-1-2-01"), raw(2, b"b", b"other")]
    )
    await mirror.save()

    kept = {record.key: record for record in mirror.records("t")}

    assert {key: record.value for key, record in kept.items()} == {b"a": b"new", b"b": b"other"}
    assert (kept[b"a"].partition, kept[b"a"].traceparent) == (3, "00-1-2-01")


async def test_a_tombstone_deletes(mirror: Mirror) -> None:
    mirror.put("t", 0, [raw(0, b"a", b"1"), raw(1, b"b", b"2")])
    await mirror.save()
    mirror.put("t", 0, [raw(2, b"a", None), raw(3, b"never there", None)])
    await mirror.save()

    assert [record.key for record in mirror.records("t")] == [b"b"]


async def test_topics_do_not_see_each_other(mirror: Mirror) -> None:
    mirror.put("features.a", 0, [raw(0, b"k", b"a")])
    mirror.put("features.ab", 0, [raw(0, b"k", b"ab")])

    assert [record.value for record in mirror.records("features.a")] == [b"a"]


async def test_offsets_say_where_to_read_on(mirror: Mirror) -> None:
    mirror.put("t", 0, [raw(7, b"a", b"1")])
    mirror.put("t", 1, [raw(3, None, b"without a key: skipped, and passed")])
    await mirror.save()

    assert mirror.offsets() == {("t", 0): 8, ("t", 1): 4}


async def test_what_was_saved_is_there_after_a_restart(tmp_path: Path) -> None:
    with Mirror(tmp_path, 4 * MIB) as mirror:
        mirror.put("t", 0, [raw(7, b"a", b"1")])

    with Mirror(tmp_path, 4 * MIB) as mirror:
        assert [record.value for record in mirror.records("t")] == [b"1"]
        assert mirror.offsets() == {("t", 0): 8}


async def test_a_full_copy_stays_whole_at_the_offsets_it_has(tmp_path: Path) -> None:
    with Mirror(tmp_path, MIB) as mirror:
        mirror.put("t", 0, [raw(0, b"first", b"kept")])
        await mirror.save()
        mirror.put("t", 0, [raw(1, b"big", bytes(2 * MIB))])
        await mirror.save()
        mirror.put("t", 0, [raw(2, b"small", b"too late")])
        await mirror.save()

        assert [record.key for record in mirror.records("t")] == [b"first"]
        assert mirror.offsets() == {("t", 0): 1}
        assert 0 < mirror.behind_s() < mirror.behind_s()


def test_what_a_copy_begins_with_is_there_whole_or_not_at_all(tmp_path: Path) -> None:
    with (
        Mirror(tmp_path, MIB) as mirror,
        pytest.raises(Unavailable, match="has no room for 1 records: free some"),
    ):
        mirror.begin_with([Stored("t", 0, b"big", bytes(2 * MIB))])


async def test_it_is_behind_from_a_put_until_that_is_on_disk(mirror: Mirror) -> None:
    assert mirror.behind_s() == 0
    mirror.put("t", 0, [raw(0, b"a", b"1")])
    since = mirror.behind_s()
    mirror.put("t", 0, [raw(1, b"b", b"2")])

    assert 0 < since < mirror.behind_s()
    await mirror.save()
    assert mirror.behind_s() == 0
