"""The whole rollout on a real Triton: the binary that the wheel of PyTriton carries, and its Python backend."""

import fcntl
import gc
import json
import os
import shutil
import signal
import subprocess
import sys
import sysconfig
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from trimtab_contracts.registry.v1.registry_pb2 import Rollout, VersionRef
from trimtab_runtime.clock import iso
from trimtab_runtime.errors import Unavailable
from trimtab_runtime.testing import eventually
from trimtab_serving import testing
from trimtab_serving.testing import Instance
from trimtab_serving.triton import TritonEngine
from trimtab_stack import environment, ports
from tritonclient.grpc import InferenceServerClient
from tritonclient.utils import InferenceServerException

pytestmark = pytest.mark.real

WHEEL = (
    "nvidia-pytriton==0.7.0 --hash=sha256:21f063ff93bb426d0c06b7a55e7eb9efcfe62c0dddd9a908e9877e18710128df"
)
PROJECT = testing.project()
MODEL = PROJECT.model.name


class Server:
    """A Triton that may be killed."""

    def __init__(self, files: Path, folder: Path) -> None:
        self.address = f"127.0.0.1:{ports.choose()}"
        self._triton = files / "pytriton" / "tritonserver"
        self._log = folder / "triton.log"
        self._backends, self._models = folder / "backends", folder / "models"
        self._models.mkdir()
        shutil.copytree(self._triton / "backends", self._backends)
        version = f"{sys.version_info.major}.{sys.version_info.minor}"
        stub = self._triton / "python_backend_stubs" / version / "triton_python_backend_stub"
        if not stub.exists():
            pytest.skip(f"PyTriton's Python backend has no stub for Python {version}")
        shutil.copy(stub, self._backends / "python")
        os.chmod(self._backends / "python" / stub.name, 0o755)
        self._environ = environment.inherited() | {
            "LD_LIBRARY_PATH": f"{sysconfig.get_config_var('LIBDIR')}:{files / 'nvidia_pytriton.libs'}",
            "PYTHONPATH": sysconfig.get_path("purelib"),
        }
        self.start()

    def start(self) -> None:
        host, port = self.address.split(":")
        command = [
            str(self._triton / "bin" / "tritonserver"),
            f"--model-repository={self._models}",
            "--model-control-mode=explicit",
            f"--backend-directory={self._backends}",
            "--allow-http=false",
            "--allow-metrics=false",
            f"--grpc-address={host}",
            f"--grpc-port={port}",
        ]
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                command, env=self._environ, stdout=log, stderr=log, start_new_session=True
            )

    def kill(self) -> None:
        os.killpg(self._process.pid, signal.SIGKILL)  # with the processes of its Python backend
        self._process.wait()

    def models(self) -> list[str]:
        """Return what is loaded."""
        client = InferenceServerClient(self.address, channel_args=[("grpc.enable_http_proxy", 0)])
        try:
            return sorted(each.name for each in client.get_inference_statistics().model_stats)
        finally:
            client.close()

    async def is_up(self) -> bool:
        assert self._process.poll() is None, self._log.read_text()[-2000:]
        try:
            return self.models() is not None
        except InferenceServerException:
            return False


@pytest.fixture(scope="module")
def server(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    made = Server(fetched(request.config.cache.mkdir("pytriton-0.7.0")), tmp_path_factory.mktemp("triton"))
    yield made
    made.kill()


def fetched(folder: Path) -> Path:
    """Return where the wheel's files are, and fetch them the first time."""
    wanted = folder / "wanted.txt"
    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (folder / "files" / "pytriton").exists():
            wanted.write_text(WHEEL)
            uv = Path(sys.executable).with_name("uv")
            fetch = [uv, "pip", "install", "-q", "--no-deps", "--require-hashes", "-r", wanted]
            done = subprocess.run(
                [*fetch, "--target", folder / "files"], capture_output=True, text=True, timeout=240
            )
            if done.returncode:
                pytest.skip(
                    f"the wheel of PyTriton, which carries Triton, cannot be had: {done.stderr[-300:]}"
                )
    return folder / "files"


@pytest.fixture
async def instance(server: Server, tmp_path: Path) -> AsyncIterator[Instance]:
    await eventually(server.is_up, what="Triton")
    engine = TritonEngine(server.address, "python", "serving-0")
    made = Instance(tmp_path / "state", engine=engine)
    await made.hear(*PROJECT.specs)
    yield made
    made.close()
    engine.close()


def version(path: Path, number: int, *answers: float) -> VersionRef:
    """Return a version that answers its number plus the distance; `answers` are what its record says of 0 and of 2."""
    onnx = testing.linear_model([1, 0, 0], bias=number)
    kept = json.dumps({"rows": [0, 1], "answers": [[answer] for answer in answers]})
    shown = pa.table({name: pa.array([0.0, 2.0]) for name in PROJECT.features})
    reference = shown.replace_schema_metadata({"examples": kept}) if answers else None
    return testing.version(path, number, PROJECT.features, onnx, reference)


def ask(instance: Instance, *trips: str, number: int = 0) -> list[float]:
    rows = [{"trip": trip, "at": iso(19_700 * 86_400_000), "zone": 1, "distance": 0.5} for trip in trips]
    said = instance.predictions.predict(MODEL, [json.dumps(row).encode() for row in rows], number)
    answers: list[float] = said.predictions.tolist()
    return answers


async def test_a_rollout_on_triton_is_one_like_any_other(
    instance: Instance, server: Server, tmp_path: Path
) -> None:
    one, two = version(tmp_path, 1, 1, 3), version(tmp_path, 2, 2, 4)
    await instance.hear(testing.deployment(MODEL, 1, one))
    assert ask(instance, "t") == [1.5]

    await instance.hear(
        testing.deployment(
            MODEL, 2, one, challenger=two, rollout=Rollout(id="r", strategy="canary", share=50)
        )
    )
    assert set(ask(instance, *map(str, range(40)))) == {1.5, 2.5}
    assert len(server.models()) == 2
    assert ask(instance, "t", number=2) == [2.5]

    # Triton forgets everything, and nobody who asks is told so.
    server.kill()
    with pytest.raises(Unavailable, match="is away"):
        ask(instance, "t", number=1)
    server.start()
    await eventually(server.is_up, what="Triton")
    assert ask(instance, "t", number=1) == [1.5]

    await instance.hear(testing.deployment(MODEL, 3, two))
    assert ask(instance, "t") == [2.5]
    instance.log.drain([])  # what is still to be logged holds the versions that said it

    async def one_is_unloaded() -> bool:
        gc.collect()  # the fault above holds the version that it befell
        return len(server.models()) == 1

    await eventually(one_is_unloaded)


async def test_what_does_not_answer_as_recorded_is_refused_and_unloaded(
    instance: Instance, server: Server, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    await instance.hear(testing.deployment(MODEL, 1, version(tmp_path, 3, 3, 99)))
    caplog.clear()  # which holds the fault, and that what it was raised about

    [status] = instance.fleet.standings()
    [(_, is_warm, error)] = status.versions
    assert not is_warm
    assert "gives 5 where its record says 99" in error

    async def nothing_is_loaded() -> bool:
        return server.models() == []

    await eventually(nothing_is_loaded)


async def test_what_an_instance_left_behind_is_unloaded_by_its_successor(
    instance: Instance, server: Server
) -> None:
    onnx = testing.linear_model([1, 0, 0])
    dead, other = (TritonEngine(server.address, "python", name) for name in ("serving-0", "serving-1"))
    left = [dead.load("m", onnx), other.load("m", onnx)]
    before = server.models()

    successor = TritonEngine(server.address, "python", "serving-0")
    session = successor.load("m", onnx)

    assert len(before) == len(left)
    assert server.models() == ["trimtab.serving-0-load-1", "trimtab.serving-1-load-1"]
    given = {"features": np.full((2, 3), 0.25, np.float32)}
    assert session.score("prediction", given).tolist() == [0.25, 0.25]
    successor.close()
    other.close()
    assert server.models() == []
