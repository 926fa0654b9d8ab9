"""Runs monitoring as a process: `python -m trimtab_monitoring`."""

from threadpoolctl import threadpool_limits
from trimtab_runtime.lifecycle import run_service

from trimtab_monitoring.app import run
from trimtab_monitoring.config import Config

if __name__ == "__main__":
    threadpool_limits(1)  # of BLAS: a window is small, and threads that wait for the next one spin
    run_service("monitoring", Config, run)
