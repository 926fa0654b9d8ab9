"""The audit log's chain: what does not fit is found where it begins, and the canonical text says one thing."""

import struct
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from trimtab_core.auditchain import GENESIS, Chain, Line, canonical

PLAIN = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)
Linked = tuple[Line, str, str]


def a_log(count: int = 5) -> list[Linked]:
    log, previous = [], GENESIS
    for number in range(1, count + 1):
        line = Line(
            number, f"Model/{number % 2}", "promoted", "ann", "because", 1_000 * number, {"n": number}
        )
        log.append((line, previous, line.hash_after(previous)))
        previous = log[-1][2]
    return log


def fault(log: list[Linked]) -> str:
    chain = Chain()
    return next(
        (said for line, before, own in log if (said := chain.take(line, previous=before, hash=own))), ""
    )


def test_a_log_as_it_was_recorded_is_whole() -> None:
    assert fault(a_log()) == ""


@pytest.mark.parametrize(
    "change",
    [
        {"actor": "eve"},
        {"reason": ""},
        {"at_ms": 3_001},
        {"details": {"n": 4}},
        {"action": "x"},
        {"resource": "Model/0"},
    ],
)
def test_an_entry_that_was_changed_is_named(change: dict[str, Any]) -> None:
    log = a_log()
    log[2] = (replace(log[2][0], **change), *log[2][1:])

    assert fault(log).startswith("entry 3 is not what was recorded")


def test_an_entry_that_was_changed_and_hashed_again_is_found_by_the_next() -> None:
    log = a_log()
    line = replace(log[2][0], actor="eve")
    log[2] = (line, log[2][1], line.hash_after(log[2][1]))

    assert fault(log).startswith("entry 4 does not follow entry 3")


@pytest.mark.parametrize(
    ("at", "said"), [(0, "entry 2 does not follow the beginning"), (2, "entry 4 does not follow entry 2")]
)
def test_an_entry_that_was_removed_is_missed(at: int, said: str) -> None:
    log = a_log()
    del log[at]

    assert fault(log).startswith(said)


def test_an_entry_that_was_put_in_or_moved_is_found() -> None:
    log = a_log()
    assert fault([*log[:3], log[2], *log[3:]]) == "entry 3 comes after entry 3"
    assert fault([log[0], log[2], log[1]]).startswith("entry 3 does not follow entry 1")


def test_the_canonical_text_is_as_it_is_described() -> None:
    five = struct.pack(">d", 5).hex()
    assert canonical(["é", 5, {"b": None, "a": [True, False]}]) == f"l2:éx{five}d1:altfe1:bnee"
    with pytest.raises(TypeError, match="bytes is no plain data"):
        canonical(b"")


@given(PLAIN, PLAIN)
def test_two_data_have_one_text_only_if_they_are_equal(one: Any, other: Any) -> None:
    assert (canonical(one) == canonical(other)) == (_typed(one) == _typed(other))


def _typed(value: Any) -> Any:
    """Return the value such that Python does not take True for 1."""
    if isinstance(value, bool):
        return ("bool", value)
    if isinstance(value, list):
        return [_typed(each) for each in value]
    return {key: _typed(each) for key, each in value.items()} if isinstance(value, dict) else value
