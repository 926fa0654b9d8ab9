"""Runs ingestion as a process: `python -m trimtab_ingestion`."""

from trimtab_runtime.lifecycle import run_service

from trimtab_ingestion.app import run
from trimtab_ingestion.config import Config

if __name__ == "__main__":
    run_service("ingestion", Config, run)
