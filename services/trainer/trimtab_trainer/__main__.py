"""Runs the trainer as a process: `python -m trimtab_trainer`."""

from trimtab_runtime.lifecycle import run_service

from trimtab_trainer.app import run
from trimtab_trainer.config import Config

if __name__ == "__main__":
    run_service("trainer", Config, run)
