"""The supervisor's command line."""

import signal
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest
from trimtab_stack import state
from trimtab_stack.__main__ import main
from trimtab_stack.environment import inherited
from trimtab_stack.waiting import until


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--scale", "serving=many"], "'serving' is scaled to 'many', which is no count: write serving=2"),
        (["--services", "servng"], "there is no service 'servng', only registry, ingestion, feature_store"),
        (["--services", ""], "name a directory"),
    ],
)
def test_a_wrong_argument_is_refused_with_what_is_right(
    arguments: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        main(arguments)

    assert said in capsys.readouterr().err


SWALLOWED = """
import os, signal, time
from trimtab_stack import __main__ as main
main._HEARD_SECONDS = 1.0
signal.signal(signal.SIGTERM, main._stop)
try:
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(60)
except SystemExit:
    pass
try:
    time.sleep(60)
finally:
    time.sleep(2)  # to stop takes its time, and is not broken off
    print("stopped")
"""


def test_an_exit_that_was_swallowed_is_raised_again_and_one_that_was_heard_is_not() -> None:
    told = subprocess.run([sys.executable, "-c", SWALLOWED], capture_output=True, text=True, timeout=50)

    assert (told.returncode, told.stdout) == (0, "stopped\n")


@pytest.mark.real
def test_a_start_that_is_interrupted_leaves_nothing_behind(
    tmp_path: Path, fake_environ: Mapping[str, str], server_environ: Mapping[str, str]
) -> None:
    environ = {**inherited(), **fake_environ, **server_environ, "TRIMTAB_FAKE": "never ready"}
    command = [sys.executable, "-m", "trimtab_stack", str(tmp_path), "--services", "fake"]
    with subprocess.Popen(command, env=environ, stderr=subprocess.PIPE) as supervisor:
        log = tmp_path / "logs" / "fake-0.log"
        assert until(lambda: log.exists() and "serving" in log.read_text(), within=60)

        supervisor.send_signal(signal.SIGINT)
        _, printed = supervisor.communicate(timeout=60)

    assert supervisor.returncode == 0
    assert b"Traceback" not in printed
    assert state.read(tmp_path).status == "stopped"
    assert state.read(tmp_path).processes == {}
