"""The process that runs are forked from, and theirs: `python -m trimtab_trainer.child DOOR PARENT`.

It loads what runs need, and forks for each order that comes through its door, a socket
that carries the end of a line to whoever ordered. Before a fork nothing has run in it:
a thread, OpenMP's or any other, would be missing in the copy, and what waits for it
would wait for ever.

A run's process binds itself to the nursery's life and to its memory, and writes to the
line how far it is; whatever else prints, prints to the run's log. The nursery writes
the exit code after it. It kills the process when the line is closed on the other side.
"""

import gc
import json
import logging
import os
import resource
import select
import signal
import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from importlib import import_module
from pathlib import Path

from trimtab_runtime.parent import die_with

from trimtab_trainer.nursery import Order

_ENVIRON = {
    # One thread a run: OpenMP's threads wait by spinning, and the machine has other work.
    "OMP_NUM_THREADS": "1",
    # A thread that Arrow's allocator begins when it is loaded.
    "JE_ARROW_MALLOC_CONF": "background_thread:false",
}
_LARGE = {"neural", "own"}
"""Families that load what most runs do without."""


def main(door: socket.socket) -> int:
    """Serve as the nursery; in a forked process do the run. Return the exit code."""
    _load()
    see_alone()
    given = _serve(door)
    return 0 if given is None else _run(*given)


def see_alone() -> None:
    """See that no thread runs here beside this one.

    Raises:
        RuntimeError: one does.
    """
    threads = len(os.listdir("/proc/self/task")) if sys.platform == "linux" else 1
    if threads > 1:
        raise RuntimeError(
            f"{threads} threads run where runs are forked, and a copy would have one: find who starts them"
        )


def _load() -> None:
    from trimtab_training.families import HOMES

    from trimtab_trainer import environment, job  # noqa: F401

    for home in sorted({*HOMES.values()} - _LARGE):
        with suppress(ImportError, OSError):  # told by the run that asks for it
            import_module(f"trimtab_training.families.{home}")
    environment.installed()
    gc.collect()
    gc.freeze()  # what is never collected is never written to, and so stays shared


def _serve(door: socket.socket) -> tuple[Order, socket.socket] | None:
    """Fork for each order, and return it in the forked process with its line; None in this one when nobody can order."""
    runs: dict[socket.socket, int] = {}
    with door, _ends() as ended:
        while True:
            ready, _, _ = select.select([door, ended, *runs], [], [])
            if ended in ready:
                ended.recv(1 << 12)
            for line, run in [*runs.items()]:
                if line in ready:  # closed on the other side, for nothing else comes that way
                    os.kill(run, signal.SIGKILL)
                _, status = died = os.waitpid(run, 0 if line in ready else os.WNOHANG)
                if died != (0, 0):
                    del runs[line]
                    with line, suppress(OSError):
                        line.sendall(b"%d\n" % os.waitstatus_to_exitcode(status))
            if door not in ready:
                continue
            _, lines, _, _ = socket.recv_fds(door, 1, 1)
            if not lines:
                break
            line, nursery = socket.socket(fileno=lines[0]), os.getpid()
            line.set_inheritable(False)
            order = Order(**json.loads(line.recv(1 << 16)))
            if run := os.fork():
                runs[line] = run
                continue
            die_with(nursery)
            for other in runs:
                other.close()
            return order, line
    for run in runs.values():
        os.kill(run, signal.SIGKILL)
    return None


@contextmanager
def _ends() -> Iterator[socket.socket]:
    """Give a socket that can be read when a process forked from here has ended."""
    ended, ending = socket.socketpair()
    ending.setblocking(False)
    with ended, ending:
        signal.signal(signal.SIGCHLD, lambda *_: None)
        signal.set_wakeup_fd(ending.fileno(), warn_on_full_buffer=False)
        yield ended
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)


def _run(order: Order, line: socket.socket) -> int:
    folder = Path(order.folder)
    with (folder / "log").open("ab") as log:
        os.dup2(log.fileno(), 1)
        os.dup2(log.fileno(), 2)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    import msgspec

    from trimtab_trainer import job, onray

    encode = msgspec.json.Encoder().encode

    def tell(progress: object) -> None:
        line.sendall(encode(progress) + b"\n")

    if order.ray_address is not None:
        return onray.main(folder, tell, onray.Place(order.ray_address, order.memory_mb, order.timeout_s))
    most = order.memory_mb << 20
    resource.setrlimit(resource.RLIMIT_DATA, (most, most))
    return job.main(folder, tell)


if __name__ == "__main__":
    die_with(int(sys.argv[2]))
    # A terminal's interrupt is for the trainer, which ends its runs.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    os.environ.update(_ENVIRON)  # noqa: TID251 - read by the libraries when they load
    sys.exit(main(socket.socket(fileno=int(sys.argv[1]))))
