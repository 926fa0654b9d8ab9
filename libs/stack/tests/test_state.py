import os
from dataclasses import replace
from pathlib import Path

import pytest
from trimtab_stack import state
from trimtab_stack.processes import Identity
from trimtab_stack.state import State

ME = Identity.of(os.getpid())
FULL = State(
    status="ready",
    error="trainer-0 ended",
    owner=ME,
    supervised=True,
    ports={"kafka": 1},
    processes={"kafka": Identity(7, 1.25)},
    addresses={"kafka": "127.0.0.1:1"},
    environ={"A": "b"},
    versions={"kafka": "4.3.1"},
)


def test_what_was_written_is_read_back(tmp_path: Path) -> None:
    state.write(tmp_path, FULL)

    assert state.read(tmp_path) == FULL


def test_others_may_not_read_it_since_an_address_may_hold_a_password(tmp_path: Path) -> None:
    state.write(tmp_path, FULL)

    assert state.path(tmp_path).stat().st_mode & 0o077 == 0


@pytest.mark.parametrize(
    "text", [None, "", "{", "[]", "null", '{"status": "ready"}', '{"of": "another version"}']
)
def test_what_is_not_there_or_not_ours_reads_as_empty(tmp_path: Path, text: str | None) -> None:
    if text is not None:
        state.path(tmp_path).write_text(text)

    assert state.read(tmp_path) == State()


def test_a_stack_runs_while_its_owner_does() -> None:
    assert FULL.running
    assert not replace(FULL, status="stopped").running
    assert not replace(FULL, owner=None).running


def test_another_process_with_the_pid_of_the_owner_is_not_the_owner() -> None:
    assert ME is not None
    assert not replace(FULL, owner=replace(ME, started=ME.started - 1)).running
