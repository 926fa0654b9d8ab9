"""A child process does not outlive its parent."""

import asyncio
import os
import subprocess
import sys

import psutil
from trimtab_runtime.testing import eventually

CHILD = (
    "import sys, time; from trimtab_runtime.parent import die_with; die_with(int(sys.argv[1]));"
    "print('bound', flush=True); time.sleep(60)"
)
PARENT = (
    "import os, subprocess, sys, time;"
    "child = subprocess.Popen([sys.executable, '-c', sys.argv[1], str(os.getpid())], stdout=subprocess.PIPE);"
    "child.stdout.readline(); print(child.pid, flush=True); time.sleep(60)"
)


async def test_a_child_ends_when_its_parent_is_killed() -> None:
    parent = await asyncio.create_subprocess_exec(sys.executable, "-c", PARENT, CHILD, stdout=subprocess.PIPE)
    assert parent.stdout
    child = psutil.Process(int(await parent.stdout.readline()))
    assert child.is_running()

    parent.kill()
    await parent.wait()

    async def ended() -> bool:
        return not child.is_running() or child.status() == psutil.STATUS_ZOMBIE

    await eventually(ended, what="the child's end")


def test_a_child_whose_parent_has_ended_already_does_nothing() -> None:
    done = subprocess.run([sys.executable, "-c", CHILD, str(os.getppid())], capture_output=True, text=True)

    assert done.returncode == 1
    assert "has ended" in done.stderr
    assert done.stdout == ""
