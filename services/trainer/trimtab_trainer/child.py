"""The child process of a run: `python -m trimtab_trainer.child FOLDER PARENT MEMORY_MB`.

It binds itself to its parent's life and to its memory before it loads anything heavy.
The parent cannot do that for it: code between fork and exec in a process with gRPC's
threads may hang.
"""

import ctypes
import os
import resource
import signal
import sys
from pathlib import Path

_PR_SET_PDEATHSIG = 1


def bind(parent: int, memory_mb: int) -> None:
    """Die when `parent` does, and never hold more than `memory_mb`."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        sys.exit("the trainer that wanted this run is gone")
    resource.setrlimit(resource.RLIMIT_DATA, (memory_mb << 20, memory_mb << 20))


if __name__ == "__main__":
    bind(int(sys.argv[2]), int(sys.argv[3]))
    # One thread a run: OpenMP's threads wait by spinning, and the machine has other work.
    os.environ["OMP_NUM_THREADS"] = "1"  # noqa: TID251 - read by the libraries when they load
    from trimtab_trainer import job

    sys.exit(job.main(Path(sys.argv[1])))
