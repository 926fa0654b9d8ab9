"""The child process of a calibration: `python -m trimtab_monitoring.calibrate FOLDER PARENT`.

It reads `reference.arrow` and `settings.json` from its folder and writes
`calibration.json` there.
"""

import os
import sys
from pathlib import Path

import msgspec
from threadpoolctl import threadpool_limits
from trimtab_core.baseline import Settings, calibrate, learn_losses
from trimtab_runtime.parent import die_with

from trimtab_monitoring.config import NICE
from trimtab_monitoring.reference import read_reference


def main(folder: Path) -> int:
    """Do the work in `folder`."""
    settings = msgspec.json.decode((folder / "settings.json").read_bytes(), type=Settings)
    try:
        columns = read_reference(folder / "reference.arrow")
        found = calibrate(columns, settings, estimator=learn_losses(columns, settings))
    except ValueError as error:
        print(error, file=sys.stderr)
        return 1
    (folder / "calibration.json").write_bytes(msgspec.json.encode(found))
    return 0


if __name__ == "__main__":
    die_with(int(sys.argv[2]))
    os.nice(NICE)
    threadpool_limits(1)
    sys.exit(main(Path(sys.argv[1])))
