"""Runs the registry as a process: `python -m trimtab_registry`."""

from trimtab_runtime.lifecycle import run_service

from trimtab_registry.app import run
from trimtab_registry.config import Config

if __name__ == "__main__":
    run_service("registry", Config, run)
