"""What software and what machine a run was made by: all of it that may change a bit of the outcome.

It is text by name, so that two runs are compared name by name. Nothing in it is a
time, a path or a name of a machine.
"""

import hashlib
import importlib.metadata
import os
import platform
from collections.abc import Mapping
from contextlib import suppress
from functools import cache
from pathlib import Path

import threadpoolctl
import trimtab_core
import trimtab_training

_PACKAGES = (
    "lightgbm", "numpy", "onnx", "onnxmltools", "onnxruntime", "optuna", "scikit-learn", "scipy", "skl2onnx", "torch",
    "trimtab-core", "trimtab-trainer", "trimtab-training", "xgboost", "xgboost-cpu",
)  # fmt: skip
_FLAGS = (
    "sse4_2",
    "avx",
    "avx2",
    "fma",
    "avx512f",
    "avx512bw",
    "avx512vl",
    "avx512_bf16",
    "amx_tile",
    "asimd",
    "sve",
)
"""Of a processor, those by which libraries choose how to add up."""


def recorded() -> dict[str, str]:
    """Return what this process runs on."""
    threads = os.environ.get("OMP_NUM_THREADS", "")  # noqa: TID251 - as the libraries read it
    return {**installed(), "blas": _blas(), "threads": threads}


@cache
def installed() -> Mapping[str, str]:
    """Return what does not change while this process lives: what it has loaded, or would load."""
    return {
        "python": platform.python_version(),
        "platform": f"{platform.system()} {platform.machine()}",
        "cpu": " ".join(_flags()),
        "source": _source(),
        "distributions": _distributions(),
        **_versions(),
    }


def _versions() -> Mapping[str, str]:
    found = {}
    for name in _PACKAGES:
        with suppress(importlib.metadata.PackageNotFoundError):
            found[name] = importlib.metadata.version(name)
    return found


def _distributions() -> str:
    """Return the digest of all that is installed, by name and version: what a lock says, as it came out."""
    names = sorted(f"{each.name}=={each.version}".lower() for each in importlib.metadata.distributions())
    return hashlib.sha256("\n".join(dict.fromkeys(names)).encode()).hexdigest()


def _source() -> str:
    """Return the digest of the code that decides what comes out: the trainer's, the core's and that which fits."""
    found = hashlib.sha256()
    for home in (Path(__file__), Path(trimtab_core.__file__), Path(trimtab_training.__file__)):
        for path in sorted(home.parent.rglob("*.py")):
            found.update(str(path.relative_to(home.parent)).encode() + b"\0" + path.read_bytes() + b"\0")
    return found.hexdigest()


def _flags() -> list[str]:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return [platform.processor()]
    has = next((line.split(":")[1].split() for line in lines if line.startswith(("flags", "Features"))), [])
    return [flag for flag in _FLAGS if flag in has]


def _blas() -> str:
    """Return the linear algebra at work and the processor that it takes this one for."""
    found = [each for each in threadpoolctl.threadpool_info() if each["user_api"] == "blas"]
    told = {
        f"{each['internal_api']} {each['version']} {each.get('architecture', '')}".strip() for each in found
    }
    return ", ".join(sorted(told))
