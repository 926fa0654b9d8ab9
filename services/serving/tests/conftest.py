"""What tests of the doors share: an instance without Kafka, and both doors over a real socket on it."""

from collections.abc import AsyncIterator
from functools import partial
from pathlib import Path

import grpc
import numpy as np
import pytest
from trimtab_contracts.registry.v1.registry_pb2 import Rollout
from trimtab_core.slots import FoldState, Layout
from trimtab_runtime import door
from trimtab_serving import grpc_api, oip_api, testing
from trimtab_serving.app import register
from trimtab_serving.testing import Instance
from trimtab_stack import ports

MIDNIGHT = 19_700 * 86_400_000
PROJECT = testing.project()
WEIGHTS = {1: [1.0, 0.0, 10.0], 2: [2.0, 0.0, 10.0], 3: [3.0, 0.0, 10.0]}


@pytest.fixture
async def instance(tmp_path: Path) -> AsyncIterator[Instance]:
    """Version 1 is live, version 2 on trial and answers nobody; zone 7 did 20 mph yesterday."""
    made = Instance(tmp_path / "state")
    fold = FoldState(Layout.of(PROJECT.speed.spec, PROJECT.dropoffs.spec.lateness))
    fold.fold(["7", "7"], np.array([MIDNIGHT, MIDNIGHT + 1]), np.array([[10.0], [30.0]]))
    versions = {
        number: testing.version(tmp_path, number, PROJECT.features, testing.linear_model(weights))
        for number, weights in WEIGHTS.items()
    }
    await made.hear(
        *PROJECT.specs,
        *testing.features(PROJECT.speed.name, fold, MIDNIGHT + 86_400_000, 2),
        testing.deployment(
            PROJECT.model.name,
            1,
            versions[1],
            challenger=versions[2],
            previous=versions[3],
            rollout=Rollout(id="r", strategy="canary", share=0),
        ),
    )
    yield made
    made.close()


@pytest.fixture
async def address(instance: Instance) -> AsyncIterator[str]:
    where = f"127.0.0.1:{ports.choose()}"
    add = partial(register, instance.predictions, instance.board)
    names = [grpc_api.SERVICE, oip_api.SERVICE]
    async with door.serving(where, add, names, threads=2, max_waiting=64) as set_ready:
        instance.board.ready = True
        set_ready(True)
        yield where


@pytest.fixture
async def channel(address: str) -> AsyncIterator[grpc.aio.Channel]:
    async with grpc.aio.insecure_channel(address) as opened:
        yield opened
