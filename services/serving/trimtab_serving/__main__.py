"""Runs serving as a process: `python -m trimtab_serving`."""

from trimtab_runtime.lifecycle import run_service

from trimtab_serving.app import run
from trimtab_serving.config import Config

if __name__ == "__main__":
    run_service("serving", Config, run)
