"""How a service's process begins and ends.

`run_service` is all that a `__main__.py` calls. SIGTERM and SIGINT cancel the
service's main coroutine, which closes what it opened in reverse; faults of the
configuration or of what it leans on are one sentence on standard error and exit 1.
"""

import asyncio
import gc
import logging
import os
import signal
import sys
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any, Protocol

from trimtab_runtime import settings, telemetry
from trimtab_runtime.errors import TrimtabError

log = logging.getLogger(__name__)

_CANCEL_AGAIN_S = 0.5


class ServiceConfig(Protocol):
    """What every service's configuration has."""

    @property
    def instance(self) -> str:
        """Name of this process among its service's."""
        ...

    @property
    def trace_file(self) -> Path | None:
        """Where spans are written, if anywhere."""
        ...


def run_service(
    service: str, config: type[ServiceConfig], run: Callable[[Any], Coroutine[Any, Any, None]]
) -> None:
    """Load `config` from the environment, set up telemetry and run `run(config)` until it ends or is told to.

    Ends the process: 0 after a signal, 1 after a fault.
    """
    try:
        loaded = settings.load(config, service, os.environ)  # noqa: TID251 - this is where every __main__ reads it
    except TrimtabError as error:
        sys.exit(str(error))
    run_loaded(service, loaded, run)


def run_loaded(service: str, loaded: ServiceConfig, run: Callable[[Any], Coroutine[Any, Any, None]]) -> None:
    """Do the same for a configuration that is there already, as that of a worker is."""
    try:
        otlp = "OTEL_EXPORTER_OTLP_ENDPOINT" in os.environ  # noqa: TID251
        telemetry.start(service, instance=loaded.instance, trace_file=loaded.trace_file, otlp=otlp)
        _collect_rarely()
        asyncio.run(_until_told(service, run(loaded)))
    except TrimtabError as error:
        sys.exit(str(error))
    except BaseExceptionGroup as group:
        log.exception("%s ended by a fault", service)
        sys.exit(f"{service} ended: " + "; ".join(str(fault) or repr(fault) for fault in leaves(group)))


def _collect_rarely() -> None:
    """Suit the garbage collector to work in batches: thousands of records live together, and none is in a cycle."""
    gc.freeze()
    gc.set_threshold(50_000, 20, 20)


async def _until_told(service: str, main: Coroutine[Any, Any, None]) -> None:
    loop = asyncio.get_running_loop()
    task = loop.create_task(main)
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, task.cancel)
    try:
        await task
    except asyncio.CancelledError:
        log.info("%s stopped", service)


async def finish(ending: Coroutine[Any, Any, object], *, within_s: float = 20.0) -> None:
    """Await `ending` to its end, however often this is cancelled meanwhile; the cancellation is raised after it.

    For what has to be closed whole: a client of Kafka that is cancelled while it stops leaves its connections open. One
    that would take longer than `within_s`, such as a member's farewell to a group whose Kafka is away, is given up.
    """
    loop = asyncio.get_running_loop()
    task, until = loop.create_task(ending), loop.time() + within_s
    cancelled: asyncio.CancelledError | None = None
    while not task.done():
        try:
            await asyncio.wait([task], timeout=max(_CANCEL_AGAIN_S, until - loop.time()))
        except asyncio.CancelledError as error:
            cancelled = error
        if not task.done() and loop.time() >= until:
            # Again and again: a client of Kafka that is being stopped can swallow a cancellation (aiokafka 0.14).
            log.warning("an ending took longer than %g s, and is given up", within_s)
            task.cancel()
    if cancelled is None and not task.cancelled():
        task.result()
    if cancelled is not None:
        if not task.cancelled() and (failure := task.exception()):
            log.warning("an ending that was cancelled failed too: %r", failure)
        raise cancelled


def leaves(error: BaseException) -> list[BaseException]:
    """Return the faults that a group holds, at any depth; a fault that is no group is its own."""
    if not isinstance(error, BaseExceptionGroup):
        return [error]
    return [leaf for each in error.exceptions for leaf in leaves(each)]
