"""Ties a child process's life to its parent's.

The child does so itself, first thing. Code between fork and exec would run in a copy of
a process whose threads are in the middle of gRPC, and may never end. A program that is not ours
is bound by this file, run in its place: `python parent.py PARENT PROGRAM ARGUMENT...`.
"""

import ctypes
import os
import signal
import sys

_PR_SET_PDEATHSIG = 1


def die_with(parent: int) -> None:
    """Let this process be killed when `parent`, the pid of the process that started it, ends; at once if it has.

    Linux sees to it; elsewhere a child whose parent is killed ends by itself, later.
    """
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:  # it ended before the line above
        sys.exit(f"process {parent}, which wanted this one, has ended")


def bound(*command: str) -> list[str]:
    """Return the command that runs `command`, of which the program is named by its path, until this process ends."""
    return [sys.executable, "-I", "-S", __file__, str(os.getpid()), *command]


if __name__ == "__main__":
    die_with(int(sys.argv[1]))
    os.execv(sys.argv[2], sys.argv[2:])
