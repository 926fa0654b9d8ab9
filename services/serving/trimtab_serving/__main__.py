"""Runs serving as a process: `python -m trimtab_serving`, or `trimtab-serving`; from a bundle with `--bundle FILE`."""

import argparse
import sys
from dataclasses import replace
from functools import partial
from pathlib import Path

from trimtab_runtime import bundle
from trimtab_runtime.errors import TrimtabError
from trimtab_runtime.lifecycle import run_service

from trimtab_serving.alone import AloneConfig
from trimtab_serving.app import run, run_alone
from trimtab_serving.config import Config


def main() -> None:
    """Run until told to end."""
    parser = argparse.ArgumentParser("trimtab-serving", description="Answers prediction requests.")
    parser.add_argument(
        "--workers", type=int, help="Processes that share the port (TRIMTAB_SERVING_WORKERS)."
    )
    parser.add_argument(
        "--bundle", type=Path, help="Serve what `trimtab model export` wrote, and nothing else."
    )
    parser.add_argument("--key", type=Path, help="The file with the key that the bundle was signed with.")
    parser.add_argument("--unsigned", action="store_true", help="Serve the bundle whoever made it.")
    given = parser.parse_args()
    if given.bundle is None:
        if given.key or given.unsigned:
            parser.error("--key and --unsigned are of a bundle: name it with --bundle")
        run_service("serving", Config, partial(_run, given.workers))
        return
    if given.workers is not None:
        parser.error("--workers are not for a bundle, which one process serves: leave it out")
    if (given.key is None) is not given.unsigned:
        parser.error("say with which --key the bundle was signed, or that it may be --unsigned")
    try:
        key = bundle.key_in(given.key) if given.key else None
    except TrimtabError as error:
        sys.exit(str(error))
    run_service("serving", AloneConfig, partial(run_alone, given.bundle, key))


async def _run(workers: int | None, config: Config) -> None:
    await run(config if workers is None else replace(config, workers=workers))


if __name__ == "__main__":
    main()
