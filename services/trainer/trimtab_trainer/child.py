"""The child process of a run: `python -m trimtab_trainer.child FOLDER PARENT MEMORY_MB`.

It binds itself to its parent's life and to its memory before it loads anything heavy.
"""

import os
import resource
import sys
from pathlib import Path

from trimtab_runtime.parent import die_with

if __name__ == "__main__":
    die_with(int(sys.argv[2]))
    most = int(sys.argv[3]) << 20
    resource.setrlimit(resource.RLIMIT_DATA, (most, most))
    # One thread a run: OpenMP's threads wait by spinning, and the machine has other work.
    os.environ["OMP_NUM_THREADS"] = "1"  # noqa: TID251 - read by the libraries when they load
    from trimtab_trainer import job

    sys.exit(job.main(Path(sys.argv[1])))
