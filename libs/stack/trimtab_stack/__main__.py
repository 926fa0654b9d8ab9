"""Runs one stack in the foreground until SIGTERM or SIGINT: `python -m trimtab_stack DIRECTORY [--scale serving=2]`."""

import argparse
import logging
import os
import signal
import sys
import time
from importlib.util import find_spec
from pathlib import Path

from trimtab_stack.errors import StackError, UnknownService
from trimtab_stack.fetch import fetch_kafka
from trimtab_stack.keeper import Keeper
from trimtab_stack.stack import SERVICES, Stack
from trimtab_stack.supervisor import log_path

_LOOK_SECONDS = 0.2
_HEARD_SECONDS = 1.0

log = logging.getLogger("trimtab_stack")


def main(arguments: list[str] | None = None) -> int:
    """Do what the command line says, and return the exit status."""
    parser = argparse.ArgumentParser(prog="python -m trimtab_stack", description=__doc__)
    parser.add_argument("directory", type=Path, nargs="?", help="where everything of the stack is kept")
    parser.add_argument("--services", type=_services, default=SERVICES, help="those to run, parted by commas")
    parser.add_argument(
        "--scale", type=_scale, default={}, help="how many processes of each: serving=2,trainer=0"
    )
    parser.add_argument("--quiet", action="store_true", help="write to the log only")
    parser.add_argument("--fetch", action="store_true", help="fetch Kafka, and run nothing")
    given = parser.parse_args(arguments)
    try:
        if given.fetch:
            fetch_kafka()
            return 0
        if not given.directory:
            parser.error("name a directory")
        _log_to(log_path(given.directory), quiet=given.quiet)
        for name in given.scale:
            if name not in given.services:
                raise UnknownService(name, list(given.services))
        return _run(given.directory, dict.fromkeys(given.services, 1) | given.scale)
    except StackError as error:
        log.error("%s", error)
        return 1
    finally:
        # Or it may end an interpreter that is ending, which hears no signal.
        signal.setitimer(signal.ITIMER_REAL, 0)


def _run(directory: Path, services: dict[str, int]) -> int:
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, _stop)
    environ = {name: value for name, value in os.environ.items() if name.startswith("TRIMTAB_")}  # noqa: TID251  we are __main__
    stack = Stack(directory, services, environ, supervised=True)
    log.info("starting in %s", stack.directory)
    with stack:
        log.info("ready: %s", " ".join(f"{name}={value}" for name, value in stack.environ.items()))
        keeper = Keeper(stack)
        try:
            while True:
                keeper.tend(time.monotonic())
                time.sleep(_LOOK_SECONDS)
        finally:
            log.info("stopping")
            keeper.close()


def _stop(number: int, _frame: object) -> None:
    for each in (signal.SIGTERM, signal.SIGINT):
        signal.signal(each, signal.SIG_IGN)  # stopping is under way and has its own deadlines
    log.info("received %s", signal.Signals(number).name)
    signal.signal(signal.SIGALRM, _stop_again)
    signal.setitimer(signal.ITIMER_REAL, _HEARD_SECONDS, _HEARD_SECONDS)
    sys.exit(0)


def _stop_again(number: int, frame: object) -> None:
    """Raise the exit anew where it was not heard: what is raised while a library calls back is swallowed."""
    if isinstance(sys.exc_info()[1], SystemExit):  # it is being heard
        signal.setitimer(signal.ITIMER_REAL, 0)
        return
    sys.exit(0)


def _services(text: str) -> list[str]:
    names = [name for name in text.split(",") if name]
    for name in names:
        if not find_spec(f"trimtab_{name}"):
            raise argparse.ArgumentTypeError(f"there is no service {name!r}, only {', '.join(SERVICES)}")
    return names


def _scale(text: str) -> dict[str, int]:
    counts = [part.partition("=") for part in text.split(",") if part]
    for name, _, count in counts:
        if not count.isdecimal():
            raise argparse.ArgumentTypeError(
                f"{name!r} is scaled to {count!r}, which is no count: write {name}=2"
            )
    return {name: int(count) for name, _, count in counts}


def _log_to(path: Path, *, quiet: bool) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    handlers: list[logging.Handler] = [logging.FileHandler(path)]
    if not quiet:
        handlers.append(logging.StreamHandler())
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s", handlers=handlers)


if __name__ == "__main__":
    sys.exit(main())
