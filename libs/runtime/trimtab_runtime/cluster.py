"""Reaches a Ray cluster from a process that may be lost with it.

Ray ends a driver that has lost its cluster, and must not end a service: so whoever
connects here is a child process, made for it.
"""

import logging
import os
import socket
from typing import Any
from urllib.parse import urlsplit

from trimtab_runtime.errors import Unavailable

_LOOK_S = 5.0
_ENVIRON = {
    "RAY_USAGE_STATS_ENABLED": "0",
    # Of how often Ray asks an address for its cluster, up to 40 s each time.
    "RAY_NUM_REDIS_GET_RETRIES": "1",
}


class RayAway(Unavailable):
    """A Ray cluster cannot be used now."""

    @classmethod
    def by(cls, address: str, error: Exception) -> "RayAway":
        """Return the sentence of an error that Ray, or the way to it, gave."""
        told = str(error).strip().rpartition("\n")[2]
        return cls(f"Ray at {address} cannot be used: {type(error).__name__}: {told}")


def look_for(address: str) -> None:
    """See whether anybody listens at an address, for Ray itself would wait long for one that does not.

    Raises:
        RayAway: nobody does.
    """
    place = urlsplit(address if "://" in address else f"//{address}")
    if place.port is None:
        return  # one of Ray's own words, such as auto
    try:
        socket.create_connection((place.hostname, place.port), timeout=_LOOK_S).close()
    except OSError as error:
        raise RayAway.by(address, error) from error


def connected(address: str, *, distribution: str) -> Any:
    """Make this process a driver of the cluster at an address, and return the module `ray`.

    Raises:
        RayAway: it cannot be reached, or Ray is not installed with `distribution`.
    """
    os.environ.update(_ENVIRON)  # noqa: TID251  ray reads it when it is imported
    try:
        import ray
    except ImportError as error:
        raise RayAway(
            f"Ray at {address} cannot be used: it is not installed here, install {distribution}[ray]"
        ) from error
    try:
        ray.init(address=address, logging_level=logging.ERROR, log_to_driver=False)
    except (ConnectionError, RuntimeError) as error:  # the latter of another version of Ray or of Python
        raise RayAway.by(address, error) from error
    return ray
