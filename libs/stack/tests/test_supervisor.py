"""A stack in the background: a fake service, with the Kafka and the PostgreSQL of the test run."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest
from trimtab_stack import state, supervisor
from trimtab_stack.errors import StackError, UnknownService
from trimtab_stack.processes import Identity
from trimtab_stack.state import State
from trimtab_stack.waiting import until

pytestmark = pytest.mark.real


@pytest.fixture
def environ(fake_environ: Mapping[str, str], server_environ: Mapping[str, str]) -> dict[str, str]:
    return {**fake_environ, **server_environ}


@pytest.fixture
def directory(tmp_path: Path) -> Iterator[Path]:
    yield tmp_path
    supervisor.down(tmp_path)


@pytest.fixture
def up(directory: Path, environ: dict[str, str]) -> State:
    return supervisor.up(directory, {"fake": 2}, environ, services=["fake"])


def test_up_returns_the_state_of_a_stack_that_is_ready(up: State, directory: Path) -> None:
    assert up.status == "ready"
    assert set(up.processes) == {"fake-0", "fake-1"}
    assert all(identity.alive for identity in up.processes.values())
    assert supervisor.status(directory) == up


def test_up_on_a_running_stack_changes_nothing(up: State, directory: Path) -> None:
    assert supervisor.up(directory) == up


def test_down_ends_everything_and_says_whether_there_was_anything(up: State, directory: Path) -> None:
    assert supervisor.down(directory)

    assert supervisor.status(directory) is None
    assert not any(identity.alive for identity in up.processes.values())
    assert not supervisor.down(directory)


def test_a_service_that_dies_is_started_again_and_that_is_written_down(up: State, directory: Path) -> None:
    os.kill(up.processes["fake-1"].pid, signal.SIGKILL)

    def is_back() -> bool:
        now = state.read(directory)
        return now.processes.get("fake-1") not in (None, up.processes["fake-1"]) and not now.error

    assert until(is_back, within=60)
    assert state.read(directory).processes["fake-0"] == up.processes["fake-0"]
    log = supervisor.log_path(directory).read_text()
    assert "fake-1 ended with signal SIGKILL" in log
    assert "fake-1 is ready again" in log


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere they end with the next up or down")
def test_nothing_outlives_a_supervisor_that_is_killed(up: State, directory: Path) -> None:
    assert up.owner
    os.kill(up.owner.pid, signal.SIGKILL)

    assert until(lambda: not any(identity.alive for identity in up.processes.values()), within=60)
    assert until(lambda: supervisor.status(directory) is None, within=60)


def test_up_after_a_supervisor_that_was_killed_takes_the_same_ports(
    up: State, directory: Path, environ: dict[str, str]
) -> None:
    assert up.owner
    os.kill(up.owner.pid, signal.SIGKILL)
    assert until(lambda: supervisor.status(directory) is None, within=60)

    again = supervisor.up(directory, {"fake": 2}, environ, services=["fake"])

    assert again.addresses == up.addresses


def test_down_ends_recorded_orphans_and_no_stranger(directory: Path) -> None:
    with (
        subprocess.Popen(["sleep", "600"], start_new_session=True) as orphan,
        subprocess.Popen(["sleep", "600"], start_new_session=True) as stranger,
    ):
        recorded, other = Identity.of(orphan.pid), Identity.of(stranger.pid)
        assert recorded
        assert other
        reused = Identity(other.pid, other.started - 60)
        state.write(directory, State(status="ready", owner=reused, processes={"a": recorded, "b": reused}))

        assert supervisor.down(directory)

        assert not recorded.alive
        assert other.alive
        stranger.kill()


def test_scaling_a_service_that_is_not_there_is_refused(directory: Path) -> None:
    with pytest.raises(UnknownService, match="no servng, only registry, ingestion"):
        supervisor.up(directory, {"servng": 2})


def test_a_stack_that_does_not_start_is_one_sentence(directory: Path, environ: dict[str, str]) -> None:
    dying = environ | {"TRIMTAB_FAKE": "dies:fake-0"}

    with pytest.raises(
        StackError, match=r"^fake-0 did not start: .* saying 'the model store is upside down'; its log is"
    ):
        supervisor.up(directory, {}, dying, services=["fake"])

    assert supervisor.status(directory) is None
