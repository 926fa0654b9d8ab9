"""Ports on loopback, below 32768: above that the system hands them out to outgoing connections."""

import random
import socket
from collections.abc import Iterable, Mapping
from pathlib import Path

from trimtab_stack.errors import PortInUse, StackError

LOOPBACK = "127.0.0.1"
_LOWEST, _BEYOND = 15_000, 32_768


def is_free(port: int) -> bool:
    """Return whether a server could listen on `port` now."""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        probe.setsockopt(
            socket.SOL_SOCKET, socket.SO_REUSEADDR, 1
        )  # connections that linger do not hold a port
        try:
            probe.bind((LOOPBACK, port))
        except OSError:
            return False
    return True


def choose(taken: set[int] | None = None) -> int:
    """Return a free port that is not in `taken`.

    Ports are drawn at random, so that stacks that start at the same moment do not choose alike.
    """
    for port in random.sample(range(_LOWEST, _BEYOND), k=200):
        if port not in (taken or ()) and is_free(port):
            return port
    raise StackError(f"no free port was found on {LOOPBACK} between {_LOWEST} and {_BEYOND - 1}")


def allot(names: Iterable[str], remembered: Mapping[str, int], state: Path) -> dict[str, int]:
    """Return a free port for each name: the one remembered in the file `state`, else a new one.

    Raises:
        PortInUse: a remembered port is taken; clients may still look for the stack there, so no other is chosen.
    """
    allotted = dict(remembered)
    for name in names:
        if name not in allotted:
            allotted[name] = choose(set(allotted.values()))
        elif not is_free(allotted[name]):
            raise PortInUse(allotted[name], name, state)
    return allotted
