import signal
import subprocess
import sys
import threading
from pathlib import Path

import psutil
import pytest
from trimtab_stack.environment import inherited
from trimtab_stack.errors import DidNotStart
from trimtab_stack.processes import ChildProcess, Identity, Launch
from trimtab_stack.waiting import until


def a_child(log: Path, script: str) -> ChildProcess:
    child = ChildProcess("thing", log / "thing.log")
    child.spawn(Launch(["sh", "-c", script], inherited()))
    return child


def test_a_program_that_ends_at_once_is_reported_with_its_last_line_and_its_log(tmp_path: Path) -> None:
    child = a_child(tmp_path, "echo first; echo 'disk is full'; exit 3")

    with pytest.raises(DidNotStart) as caught:
        child.wait_ready(lambda: False, within=60)

    log = tmp_path / "thing.log"
    expected = f"thing did not start: it ended with exit code 3, saying 'disk is full'; its log is {log}"
    assert str(caught.value) == expected


def test_only_what_the_last_run_printed_is_reported(tmp_path: Path) -> None:
    earlier = a_child(tmp_path, "echo of an earlier run")
    assert until(lambda: not earlier.alive, within=60)
    child = a_child(tmp_path, "exit 1")

    with pytest.raises(DidNotStart, match="ended with exit code 1; its log"):
        child.wait_ready(lambda: False, within=60)


def test_a_program_that_is_never_ready_is_reported(tmp_path: Path) -> None:
    child = a_child(tmp_path, "exec sleep 600")

    with pytest.raises(DidNotStart, match=r"it was not ready after 0\.1 s"):
        child.wait_ready(lambda: False, within=0.1)

    assert not child.alive


def test_a_program_that_is_not_there_is_reported(tmp_path: Path) -> None:
    child = ChildProcess("thing", tmp_path / "log")
    child.spawn(Launch(["no-such-program"], inherited()))

    with pytest.raises(DidNotStart, match="cannot run no-such-program: No such file"):
        child.wait_ready(lambda: False, within=60)


def test_killing_takes_along_what_the_program_started(tmp_path: Path) -> None:
    child = a_child(tmp_path, "sleep 600 & echo $!; wait")
    assert until(lambda: child.output().strip().isdigit(), within=60)
    grandchild = Identity.of(int(child.output()))
    assert grandchild is not None

    child.kill()

    assert not child.alive
    assert until(lambda: not grandchild.alive, within=60)


def test_a_program_that_does_not_stop_when_asked_is_killed(tmp_path: Path) -> None:
    child = a_child(tmp_path, "trap '' TERM; echo deaf; while :; do sleep 600; done")
    assert until(lambda: "deaf" in child.output(), within=60)

    child.end(signal.SIGTERM, within=0.1)

    assert child.describe_exit() == "signal SIGKILL"


def test_a_child_outlives_the_thread_that_asked_for_it(tmp_path: Path) -> None:
    started: list[ChildProcess] = []
    thread = threading.Thread(target=lambda: started.append(a_child(tmp_path, "echo here; exec sleep 600")))
    thread.start()
    thread.join()
    child = started[0]
    assert until(lambda: "here" in child.output(), within=60)

    assert child.alive

    child.kill()


PARENT = """
import sys
from pathlib import Path
from trimtab_stack.environment import inherited
from trimtab_stack.processes import ChildProcess, Launch

child = ChildProcess("thing", Path(sys.argv[1]))
child.spawn(Launch(["sh", "-c", "echo $$; exec sleep 600"], inherited()))
input()
"""


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux has such a leash")
def test_a_child_dies_with_a_parent_that_is_killed(tmp_path: Path) -> None:
    log = tmp_path / "log"
    with subprocess.Popen([sys.executable, "-c", PARENT, str(log)], stdin=subprocess.PIPE) as parent:
        assert until(lambda: log.exists() and log.read_text().strip().isdigit(), within=60)
        child = Identity.of(int(log.read_text()))
        assert child is not None
        assert child.alive

        parent.kill()

    assert until(lambda: not child.alive, within=60)


def test_an_identity_tells_a_process_from_the_next_one_with_its_pid() -> None:
    one = psutil.Process()
    identity = Identity.of(one.pid)
    assert identity is not None

    assert identity.alive
    assert not Identity(one.pid, identity.started + 1).alive
