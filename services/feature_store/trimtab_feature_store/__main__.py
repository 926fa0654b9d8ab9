"""Runs the feature store as a process: `python -m trimtab_feature_store`."""

from trimtab_runtime.lifecycle import run_service

from trimtab_feature_store.app import run
from trimtab_feature_store.config import Config

if __name__ == "__main__":
    run_service("feature_store", Config, run)
