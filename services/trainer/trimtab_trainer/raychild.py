"""The child process of a run on Ray: `python -m trimtab_trainer.raychild FOLDER PARENT MEMORY_MB TIMEOUT_S ADDRESS`.

It is the cluster's driver for this one run, so that whatever ends it, a cancellation, a
lost cluster or its parent's death, ends the run's tasks and nothing else. It tells how
far it is as the child of a run does that is fitted here.
"""

import logging
import os
import sys
from pathlib import Path

from trimtab_runtime.parent import die_with

if __name__ == "__main__":
    folder, parent_id, memory_mb, timeout_s, address = sys.argv[1:]
    die_with(int(parent_id))
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    parent = os.dup(1)
    os.dup2(2, 1)
    import msgspec

    from trimtab_trainer import onray

    encode = msgspec.json.Encoder().encode
    sys.exit(
        onray.main(
            Path(folder),
            lambda progress: os.write(parent, encode(progress) + b"\n"),
            onray.Place(address, int(memory_mb), float(timeout_s)),
        )
    )
