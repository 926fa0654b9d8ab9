"""ONNX Runtime is loaded without the thread that would tell of its use."""

import subprocess
import sys

import pytest

THREADS = """
import os
import numpy
before = os.listdir("/proc/self/task")  # NumPy's own among them
from trimtab_runtime.ort import onnxruntime
print(len(os.listdir("/proc/self/task")) - len(before))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="threads are counted in /proc")
def test_nothing_runs_beside_who_loads_it() -> None:
    told = subprocess.run([sys.executable, "-c", THREADS], check=True, capture_output=True, text=True)

    assert told.stdout.strip() == "0"
