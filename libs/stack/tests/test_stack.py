"""A stack of real processes: those of a fake service, and no servers."""

import json
import signal
import socket
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import psutil
import pytest
from trimtab_stack import state
from trimtab_stack.errors import AlreadyRunning, DidNotStart, PortInUse, StackError, UnknownService
from trimtab_stack.processes import Identity
from trimtab_stack.stack import Stack
from trimtab_stack.waiting import until


def ignore(_: str) -> None:
    """Create no topics."""


@pytest.fixture
def a_stack(tmp_path: Path, fake_environ: Mapping[str, str]) -> Callable[..., Stack]:
    def make(processes: int = 1, create_topics: Callable[[str], None] = ignore, **environ: str) -> Stack:
        return Stack(tmp_path, {"fake": processes}, {**fake_environ, **environ}, create_topics=create_topics)

    return make


def told(directory: Path, name: str) -> dict[str, Any]:
    return dict(json.loads((directory / "state" / name / "environ.json").read_text()))


def test_it_starts_every_process_and_tells_each_who_it_is(
    a_stack: Callable[..., Stack], tmp_path: Path
) -> None:
    topics: list[str] = []

    with a_stack(processes=2, create_topics=topics.append) as stack:
        both = stack.environ["TRIMTAB_FAKE_ADDRESS"]
        assert both == f"{stack.address('fake')},{stack.address('fake', 1)}"
        for index in (0, 1):
            environ = told(tmp_path, f"fake-{index}")
            assert environ["TRIMTAB_GRPC_ADDRESS"] == stack.address("fake", index)
            assert environ["TRIMTAB_INSTANCE"] == f"fake-{index}"
            assert environ["TRIMTAB_FAKE_ADDRESS"] == both
            assert Path(environ["TRIMTAB_DATA_DIR"]).is_dir()
            assert Path(environ["TRIMTAB_TRACE_FILE"]).parent.is_dir()
            assert environ["PATH"]
    assert topics == ["127.0.0.1:1"]


def test_stopping_drains_and_leaves_nothing_running(a_stack: Callable[..., Stack], tmp_path: Path) -> None:
    with a_stack() as stack:
        identity = stack.service("fake").process.identity
        assert identity

    assert not identity.alive
    assert (tmp_path / "state" / "fake-0" / "drained").exists()
    assert state.read(tmp_path).status == "stopped"


def test_a_restart_takes_the_same_ports(a_stack: Callable[..., Stack]) -> None:
    with a_stack() as stack:
        before = stack.address("fake")

    with a_stack() as stack:
        assert stack.address("fake") == before


def test_a_remembered_port_in_use_is_one_clear_sentence(
    a_stack: Callable[..., Stack], tmp_path: Path
) -> None:
    with a_stack() as stack:
        host, port = stack.address("fake").split(":")

    with (
        socket.create_server((host, int(port))),
        pytest.raises(PortInUse, match=f"port {port} of fake-0 is in use"),
    ):
        a_stack().start()

    last = state.read(tmp_path)
    assert last.status == "failed"
    assert last.ports["fake-0"] == int(port)


def test_a_directory_is_held_by_one_stack_at_a_time(a_stack: Callable[..., Stack], tmp_path: Path) -> None:
    with a_stack(), pytest.raises(AlreadyRunning, match=f"a stack is already running in {tmp_path}"):
        a_stack().start()


def test_a_service_that_dies_at_once_fails_the_start_and_ends_the_others(
    a_stack: Callable[..., Stack], tmp_path: Path
) -> None:
    stack = a_stack(processes=3, TRIMTAB_FAKE="dies:fake-1")

    with pytest.raises(DidNotStart) as caught:
        stack.start()

    log = tmp_path / "logs" / "fake-1.log"
    said = "it ended with exit code 1, saying 'the model store is upside down'"
    assert str(caught.value) == f"fake-1 did not start: {said}; its log is {log}"
    assert not any(part.process.alive for part in stack.parts.values())
    assert state.read(tmp_path).error == str(caught.value)


def test_topics_that_cannot_be_made_fail_the_start(a_stack: Callable[..., Stack]) -> None:
    def refuse(servers: str) -> None:
        raise StackError(f"no topics at {servers}")

    with pytest.raises(StackError, match="no topics at 127"):
        a_stack(create_topics=refuse).start()


def test_one_process_can_be_killed_and_started_again(a_stack: Callable[..., Stack], tmp_path: Path) -> None:
    with a_stack(processes=2) as stack:
        first, second = stack.service("fake", 0), stack.service("fake", 1)
        before = second.pid

        stack.kill_service("fake", 0)
        assert not first.alive
        assert set(state.read(tmp_path).processes) == {"fake-1"}

        stack.start_service("fake", 0)
        assert first.alive
        assert second.pid == before


def test_one_process_can_be_drained_and_started_again(a_stack: Callable[..., Stack], tmp_path: Path) -> None:
    with a_stack() as stack:
        before = stack.service("fake").pid

        stack.restart_service("fake")

        assert stack.service("fake").pid not in (None, before)
        assert (tmp_path / "state" / "fake-0" / "drained").exists()


def test_other_signals_go_to_the_process_as_they_are(a_stack: Callable[..., Stack]) -> None:
    with a_stack() as stack:
        process = psutil.Process(stack.service("fake").pid)

        stack.kill_service("fake", sig=signal.SIGSTOP)
        assert until(lambda: process.status() == psutil.STATUS_STOPPED, within=60)
        stack.kill_service("fake", sig=signal.SIGCONT)
        assert until(lambda: process.status() != psutil.STATUS_STOPPED, within=60)


def test_killing_a_service_takes_its_workers_along(a_stack: Callable[..., Stack], tmp_path: Path) -> None:
    with a_stack(TRIMTAB_FAKE="has a child") as stack:
        worker = Identity.of(int((tmp_path / "state" / "fake-0" / "child.pid").read_text()))
        assert worker

        stack.kill_service("fake")

        assert until(lambda: not worker.alive, within=60)


def test_a_service_that_does_not_drain_is_killed(a_stack: Callable[..., Stack]) -> None:
    with a_stack(TRIMTAB_FAKE="never drains") as stack:
        service = stack.service("fake")

        service.stop(within=0.2)

        assert service.process.describe_exit() == "signal SIGKILL"


def test_what_the_stack_does_not_run_is_refused_by_name(a_stack: Callable[..., Stack]) -> None:
    with a_stack() as stack:
        with pytest.raises(UnknownService, match=r"no serving-0, only fake-0"):
            stack.kill_service("serving")
        with pytest.raises(StackError, match="runs no Kafka of its own"):
            stack.kafka.kill()


def test_a_stack_that_is_not_started_has_no_addresses(a_stack: Callable[..., Stack]) -> None:
    with pytest.raises(StackError, match="is not started: start it first"):
        a_stack().address("fake")
