"""Several processes of serving on one port: Python runs one request at a time in each.

A worker is an instance like any other, with a local copy and a log of its own. It
listens when its versions are warm, so the kernel gives connections to warm ones only.
One that is killed is begun again; one that ends by a fault of its own ends all.
"""

import asyncio
import logging
import multiprocessing
import os
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from typing import Any

from trimtab_runtime import door
from trimtab_runtime.errors import Unavailable
from trimtab_runtime.parent import die_with

from trimtab_serving.config import Config

log = logging.getLogger(__name__)

_LOOK_S = 0.2
_END_S = 15.0

Work = Callable[[Config], None]
"""Runs one worker until it is told to end; has to be importable, for a worker is a fresh process."""


def config_of(config: Config, worker: int) -> Config:
    """Return what one of the workers is told."""
    return replace(
        config,
        workers=1,
        instance=f"{config.instance}.{worker}",
        state_dir=config.state_dir / f"worker-{worker}",
    )


async def supervise(config: Config, work: Work) -> None:
    """Keep `config.workers` workers running until cancelled, and end them then.

    Raises:
        Unavailable: the address cannot be had, or a worker ended by a fault.
    """
    door.check_free(config.grpc_address)  # once workers share it, nobody would be told
    running = {number: _begin(config_of(config, number), work) for number in range(config.workers)}
    try:
        while True:
            await asyncio.sleep(_LOOK_S)
            for number, process in running.items():
                if process.exitcode is None:
                    continue
                if process.exitcode >= 0:
                    raise Unavailable(f"worker {number} ended with {process.exitcode}: its log says why")
                log.error("worker %d was killed by signal %d, and is begun again", number, -process.exitcode)
                running[number] = _begin(config_of(config, number), work)
    finally:
        for process in running.values():
            process.terminate()
        with suppress(TimeoutError):
            async with asyncio.timeout(_END_S):
                while any(process.is_alive() for process in running.values()):
                    await asyncio.sleep(_LOOK_S)
        for process in running.values():
            process.kill()


def _begin(config: Config, work: Work) -> Any:
    process = multiprocessing.get_context("spawn").Process(
        target=_run, args=(config, work, os.getpid()), name=config.instance
    )
    process.start()
    return process


def _run(config: Config, work: Work, parent: int) -> None:
    die_with(parent)
    work(config)
