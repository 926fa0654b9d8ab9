"""Runs serving as a process: `python -m trimtab_serving [--workers N]`."""

import argparse
from dataclasses import replace

from trimtab_runtime.lifecycle import run_service

from trimtab_serving import app
from trimtab_serving.config import Config


async def run(config: Config) -> None:
    """Run with as many workers as the command line says, else the environment."""
    await app.run(config if asked.workers is None else replace(config, workers=asked.workers))


if __name__ == "__main__":
    parser = argparse.ArgumentParser("trimtab-serving", description="Answers prediction requests.")
    parser.add_argument("--workers", type=int, help="processes that share the port (TRIMTAB_SERVING_WORKERS)")
    asked = parser.parse_args()
    run_service("serving", Config, run)
