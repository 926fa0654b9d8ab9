"""The child process of a run: `python -m trimtab_trainer.child FOLDER PARENT MEMORY_MB`.

It binds itself to its parent's life and to its memory before it loads anything heavy.
Standard output is for telling the parent how far it is, a line each; whatever else
prints, prints to standard error, which is the run's log.
"""

import logging
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
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    parent = os.dup(1)
    os.dup2(2, 1)
    import msgspec

    from trimtab_trainer import job

    encode = msgspec.json.Encoder().encode
    sys.exit(job.main(Path(sys.argv[1]), lambda progress: os.write(parent, encode(progress) + b"\n")))
