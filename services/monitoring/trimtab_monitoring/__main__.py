"""Runs monitoring as a process: `python -m trimtab_monitoring`."""

from trimtab_runtime.lifecycle import run_service

from trimtab_monitoring.app import run
from trimtab_monitoring.config import Config

if __name__ == "__main__":
    run_service("monitoring", Config, run)
