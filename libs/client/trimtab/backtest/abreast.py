"""Strategies lived abreast, each in a process of its own, which share what they make by their shelf.

What comes of each is what comes of it in one process, but for what hangs on seconds, of which
a busier machine gives less: a search that its budget ends, a fit of about as long as one whose
judging is made short, a gate of latency. The processes end with the call that started them,
however it ends, and with the process that made it.
"""

import os
import pickle
import signal
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from multiprocessing import get_context, parent_process
from multiprocessing.connection import Connection, wait
from pathlib import Path
from threading import Thread
from traceback import format_exception

from trimtab_core.specs import Model, ModelTest, Source
from trimtab_runtime.errors import Unavailable
from trimtab_training import families

from trimtab.backtest import living
from trimtab.backtest.history import History
from trimtab.backtest.living import Life, Strategy, Watching
from trimtab.backtest.shelf import Shelf
from trimtab.backtest.workbench import Spent, Workbench

_processes = get_context("forkserver")


@dataclass(frozen=True, slots=True)
class _Part:
    """What one process is to do."""

    model: Model
    source: Source
    history: History
    tests: Sequence[ModelTest]
    folder: Path
    """Of the shelf."""
    strategy: Strategy
    from_ms: int
    step_ms: int


@dataclass(frozen=True, slots=True)
class _Lived:
    life: Life
    spent: Spent


@dataclass(frozen=True, slots=True)
class _Failed:
    error: Exception
    where: str
    """The traceback, which an exception does not take from one process to another."""


def live(
    bench: Workbench, strategies: Sequence[Strategy], from_ms: int, step_ms: int, watching: Watching
) -> dict[str, Life]:
    """Live strategies at once, by name, from the version that is made as of `from_ms` on; the shelf of `bench` has a folder.

    Raises:
        Rejected: a strategy cannot be lived.
        Unavailable: a process was ended from outside.
    """
    folder = bench.shelf.folder
    assert folder is not None
    fitting = [name for name in sys.modules if name.startswith(families.__name__)]
    _processes.set_forkserver_preload(["__main__", __name__, *fitting])  # what each would load is loaded once
    started, lines, lives = [], {}, {}
    try:
        for each in strategies:
            ours, theirs = _processes.Pipe(duplex=False)
            part = _Part(
                bench.model, bench.source, bench.history, bench.tests, folder, each, from_ms, step_ms
            )
            process = _processes.Process(target=_live, args=(theirs, part), daemon=True)
            with theirs:
                process.start()
            started.append(process)
            lines[ours] = (each.name, process)
        while lines:
            for line in wait(list(lines)):
                assert isinstance(line, Connection)
                name, process = lines[line]
                try:
                    told = line.recv()
                except (EOFError, OSError):  # OSError in the midst of what it told
                    process.join()
                    raise Unavailable(_ended(name, process.exitcode)) from None
                match told:
                    case _Lived(life, spent):
                        lives[name] = life
                        bench.spent.add(spent)
                        line.close()
                        del lines[line]
                    case _Failed(error, where):
                        raise error from RuntimeError(where)
                    case (at_ms, share):
                        watching.on_time(name, at_ms, share)
                    case None:
                        watching.on_fit(name)
    finally:
        for process in started:
            process.kill()
            process.join()
    return {each.name: lives[each.name] for each in strategies}


def _ended(name: str, code: int | None) -> str:
    how = f"signal {-code}" if code is not None and code < 0 else f"exit code {code}"
    return (
        f"the process that lived strategy {name!r} ended with {how}, most often for want of memory: "
        "free some, or give a backtest less history"
    )


def _live(line: Connection, part: _Part) -> None:
    """Live a strategy, and tell `line` how far it is, and what came of it."""
    # Ctrl-C is the business of the process that started this one.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    Thread(target=_end_with_the_maker, daemon=True).start()
    try:
        line.send(_lived(line, part))
    except BrokenPipeError:
        return  # nobody is there any more
    except Exception as error:  # the edge of the process
        line.send(_failed(error))


def _end_with_the_maker() -> None:
    """End this process, whatever it is at, when the one that made it has ended."""
    maker = parent_process()
    assert maker is not None
    maker.join()
    os._exit(1)


def _failed(error: Exception) -> _Failed:
    """Return an error as another process is told it: by its traceback alone, if it does not come through the line itself."""
    where = "".join(format_exception(error))
    try:
        pickle.loads(pickle.dumps(error))
    except Exception:  # whatever its class makes of that
        return _Failed(RuntimeError(where), where)
    return _Failed(error, where)


def _lived(line: Connection, part: _Part) -> _Lived:
    bench = Workbench(part.model, part.source, part.history, tests=part.tests, shelf=Shelf(part.folder))
    watching = Watching(
        on_fit=lambda _: line.send(None), on_time=lambda _, at_ms, share: line.send((at_ms, share))
    )
    [life] = living.live(bench, [part.strategy], part.from_ms, part.step_ms, watching).values()
    return _Lived(life, bench.spent)
