"""Starts the processes of runs: each is forked from one process, which has loaded what runs need.

So a run begins in milliseconds, and what is loaded is loaded once for all of them. A
run's process ends with the nursery, and the nursery with the process that opened it,
whichever way that ends. A nursery that was lost is replaced for the next run.
"""

import asyncio
import json
import os
import socket
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, closing, suppress
from dataclasses import asdict, dataclass
from typing import Self

from trimtab_trainer.errors import NurseryLost


@dataclass(frozen=True, slots=True, kw_only=True)
class Order:
    """What a run's process is to do."""

    folder: str
    memory_mb: int
    ray_address: str | None = None
    """The cluster that it is to drive, if it is not to fit by itself."""
    timeout_s: float = 0.0
    """How long the run may take there."""


class Nursery:
    """The process that runs are forked from; open it in a thread that lives as long, for Linux ends it with that thread."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[bytes] | None = None
        self._door: socket.socket | None = None

    def __enter__(self) -> Self:
        self._start()
        return self

    def __exit__(self, *_: object) -> None:
        self._end()

    @property
    def pid(self) -> int | None:
        """Its process, if it has been started."""
        return None if self._process is None else self._process.pid

    @asynccontextmanager
    async def started(self, order: Order) -> AsyncIterator[asyncio.StreamReader]:
        """Start a run's process; on leaving it is killed, if it has not ended, and gone.

        What it tells are lines of JSON: each `Progress` by itself, and at last its exit code, negative for a signal. Lines
        that end without one mean that the nursery was lost, and the process with it.

        Raises:
            NurseryLost: it could not be started, or the nursery ended before it read the order.
        """
        ours, theirs = socket.socketpair()
        with theirs:
            ours.sendall(json.dumps(asdict(order)).encode())
            try:
                self._send(theirs)
            except OSError as error:
                ours.close()
                raise NurseryLost from error
        lines, line = await asyncio.open_unix_connection(sock=ours)
        try:
            yield lines
        except ConnectionError as error:
            raise NurseryLost from error
        finally:
            with closing(line), suppress(ConnectionError):
                if not line.is_closing():
                    line.write_eof()
                while await lines.read(1 << 16):
                    pass

    def _send(self, line: socket.socket) -> None:
        if self._process is None or self._process.poll() is not None:
            self._start()
        assert self._door is not None
        socket.send_fds(self._door, [b"+"], [line.fileno()])

    def _start(self) -> None:
        self._end()
        self._door, theirs = socket.socketpair()
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "trimtab_trainer.child", str(theirs.fileno()), str(os.getpid())],
                stdin=subprocess.DEVNULL,
                pass_fds=[theirs.fileno()],
            )

    def _end(self) -> None:
        if self._door is not None:
            self._door.close()
        if self._process is not None:
            self._process.kill()
            self._process.wait()
