"""Several processes on one port: what they are told, and how they end together."""

import multiprocessing
import socket
from pathlib import Path
from typing import Any

import pytest
from trimtab_runtime.errors import Rejected, Unavailable
from trimtab_serving import app
from trimtab_serving.config import Config
from trimtab_serving.workers import config_of
from trimtab_stack import ports


def a_config(path: Path, **changes: Any) -> Config:
    address = f"127.0.0.1:{ports.choose()}"
    told = {"kafka_servers": "127.0.0.1:1", "grpc_address": address, "state_dir": path, "workers": 2}
    return Config(**told | changes)


def test_each_worker_is_an_instance_with_a_place_of_its_own(tmp_path: Path) -> None:
    found = [config_of(a_config(tmp_path), number) for number in range(2)]

    assert [it.instance for it in found] == ["serving-0.0", "serving-0.1"]
    assert [it.state_dir for it in found] == [tmp_path / "worker-0", tmp_path / "worker-1"]
    assert {it.workers for it in found} == {1}


@pytest.mark.real
async def test_a_worker_that_ends_by_a_fault_ends_all(tmp_path: Path) -> None:
    faulty = a_config(tmp_path, triton_address="127.0.0.1:1", triton_backend="none such")

    with pytest.raises(Unavailable, match=r"worker \d ended with 1: its log says why"):
        await app.run(faulty)

    assert multiprocessing.active_children() == []


async def test_an_address_that_is_taken_is_told_before_any_worker_begins(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        config = a_config(tmp_path, grpc_address=f"127.0.0.1:{taken.getsockname()[1]}")
        with pytest.raises(Unavailable, match="Address already in use"):
            await app.run(config)


async def test_no_workers_are_none_that_could_serve(tmp_path: Path) -> None:
    with pytest.raises(Rejected, match="TRIMTAB_SERVING_WORKERS is 0: it takes one or more"):
        await app.run(a_config(tmp_path, workers=0))
