"""What a child process does first: it gives way to others, and ties its life to its parent's.

It does so itself. Code between fork and exec would run in a copy of a process whose
threads are in the middle of gRPC, and may never end.
"""

import ctypes
import os
import signal
import sys

_PR_SET_PDEATHSIG = 1


def humble(nice: int) -> None:
    """Lower this process's priority by `nice`, and let it end when its parent does."""
    parent = os.getppid()
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if parent == 1 or os.getppid() != parent:
        sys.exit("the parent has ended already")
    os.nice(nice)
