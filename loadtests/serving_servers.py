"""The servers of bench_serving.py: each a process of its own on the same core, with the same model.

Trimtab and the plain server run in Trimtab's environment, MLServer and Triton in one of their own (.venv-peers-serving),
where the load generator lies too. None is asked for a figure before it has given ONNX Runtime's own answer.
"""

import json
import os
import re
import socket
import subprocess
import sys
import sysconfig
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import numpy as np
from load import end, start
from numpy.typing import NDArray
from trimtab_stack import environment, ports
from tritonclient.grpc import service_pb2 as pb2
from tritonclient.grpc import service_pb2_grpc as pb2_grpc

HERE = Path(__file__).resolve().parent
PEERS = HERE.parent / ".venv-peers-serving"
GRPC_LOAD = PEERS / "grpc_load"
THREADS = 4
"""Of Trimtab's door and of the plain server."""
BATCH = 96
"""The most rows that Triton takes at once: ONNX Runtime's trees cost three times as much a row beyond."""
PATIENCE_S = 60.0
CHANNEL = [("grpc.enable_http_proxy", 0)]


@dataclass(frozen=True, slots=True)
class Server:
    """A server that runs."""

    process: subprocess.Popen[bytes]
    address: str


def commands(
    directory: Path, model: Path, trimtab: Mapping[str, str]
) -> Iterator[tuple[str, str, list[str], dict[str, str]]]:
    """Yield name, address, command and environment of each server, with its configuration written to `directory`."""
    ours = environment.inherited()
    taken: set[int] = set()

    def port() -> int:
        taken.add(found := ports.choose(taken))
        return found

    def address() -> str:
        return f"{ports.LOOPBACK}:{port()}"

    at = address()
    yield "echo", at, [str(GRPC_LOAD), "echo", at], ours
    at = address()
    yield "plain", at, [sys.executable, str(HERE / "serving_plain.py"), str(model), at, str(THREADS)], ours
    at = address()
    yield "trimtab", at, [sys.executable, "-m", "trimtab_serving"], {**trimtab, "TRIMTAB_GRPC_ADDRESS": at}
    grpc_port = port()
    folder = mlserver(directory / "mlserver", model, grpc_port, port(), port())
    environ = {**ours, "PYTHONPATH": str(HERE)}
    command = [str(PEERS / "bin/mlserver"), "start", str(folder)]
    yield "mlserver", f"{ports.LOOPBACK}:{grpc_port}", command, environ
    grpc_port = port()
    command, environ = triton(directory / "triton", model, grpc_port, port())
    yield "triton", f"{ports.LOOPBACK}:{grpc_port}", command, {**ours, **environ}


def mlserver(folder: Path, model: Path, grpc_port: int, http_port: int, metrics_port: int) -> Path:
    """Write MLServer's settings: in one process, as a second one on the same core would only cost it."""
    folder.mkdir()
    settings = {
        "host": ports.LOOPBACK,
        "grpc_port": grpc_port,
        "http_port": http_port,
        "metrics_port": metrics_port,
        "metrics_dir": str(folder),
        "environments_dir": str(folder),
        "parallel_workers": 0,
        "debug": False,
    }
    served = {
        "name": "model",
        "implementation": "serving_mlserver.Onnx",
        "parameters": {"uri": str(model)},
    }
    (folder / "settings.json").write_text(json.dumps(settings))
    (folder / "model-settings.json").write_text(json.dumps(served))
    return folder


def triton(
    directory: Path, model: Path, grpc_port: int, metrics_port: int
) -> tuple[list[str], dict[str, str]]:
    """Write Triton's model repository and its Python backend for our Python, and return its command and environment."""
    packages = next(PEERS.glob("lib/python3*/site-packages"))
    wheel = packages / "pytriton/tritonserver"
    version = directory / "models/model/1"
    backend = directory / "backends/python"
    version.mkdir(parents=True)
    backend.mkdir(parents=True)
    path = [str(HERE), str(packages)]  # Triton's Python is isolated: it takes no PYTHONPATH
    (version / "model.py").write_text(
        f"import sys\nsys.path[:0] = {path}\nfrom serving_triton import TritonPythonModel\n"
    )
    (version.parent / "config.pbtxt").write_text(
        f"""name: "model"
backend: "python"
max_batch_size: {BATCH}
input [{{ name: "features" data_type: TYPE_FP32 dims: [20] }}]
output [{{ name: "prediction" data_type: TYPE_FP32 dims: [1] }}]
instance_group [{{ kind: KIND_CPU count: 1 }}]
dynamic_batching {{ }}
parameters [{{ key: "onnx" value: {{ string_value: {json.dumps(str(model))} }} }}]
"""
    )
    stub = (
        f"python_backend_stubs/{sys.version_info.major}.{sys.version_info.minor}/triton_python_backend_stub"
    )
    for file in (*(wheel / "backends/python").iterdir(), wheel / stub):
        (backend / file.name).symlink_to(file)
    command = [str(wheel / "bin/tritonserver"), "--model-repository", str(directory / "models")]
    command += ["--backend-directory", str(directory / "backends"), "--grpc-address", ports.LOOPBACK]
    command += ["--grpc-port", str(grpc_port), "--allow-http", "false"]
    command += ["--metrics-address", ports.LOOPBACK, "--metrics-port", str(metrics_port)]
    libraries = [sysconfig.get_config_var("LIBDIR"), str(packages / "nvidia_pytriton.libs")]
    return command, {"LD_LIBRARY_PATH": os.pathsep.join(libraries)}


@contextmanager
def running(
    directory: Path, model: Path, trimtab: Mapping[str, str], core: int
) -> Iterator[dict[str, Server]]:
    """Run all servers on one core, and end them.

    Raises:
        SystemExit: one did not start; what it printed is told.
    """
    with ExitStack() as stack:
        servers = {}
        for name, address, command, environ in commands(directory, model, trimtab):
            log = directory / f"{name}.log"
            process = start(command, environ, core, log)
            stack.callback(end, process)
            servers[name] = Server(process, address)
            wait(name, servers[name], log)
        yield servers


def wait(name: str, server: Server, log: Path) -> None:
    """Wait until a server listens, and, where it knows models, until the model is ready.

    Raises:
        SystemExit: it is not in time; what it printed is told.
    """
    until = time.monotonic() + PATIENCE_S
    while time.monotonic() < until and server.process.poll() is None:
        if listens(server) and (name in ("echo", "plain") or is_ready(server)):
            return
        time.sleep(0.1)
    sys.exit(f"{name} did not start; the end of what it printed:\n{log.read_text()[-3000:]}")


def listens(server: Server) -> bool:
    host, port = server.address.split(":")
    try:
        socket.create_connection((host, int(port)), timeout=1).close()
        return True
    except OSError:
        return False


def is_ready(server: Server) -> bool:
    with grpc.insecure_channel(server.address, options=CHANNEL) as channel:
        try:
            asked = pb2.ModelReadyRequest(name="model")
            return bool(pb2_grpc.GRPCInferenceServiceStub(channel).ModelReady(asked, timeout=5).ready)
        except grpc.RpcError:
            return False


def compare(servers: Mapping[str, Server], bodies: list[bytes], expected: NDArray[np.float32]) -> None:
    """Have each server answer some requests without a key, and hold them to what ONNX Runtime says.

    Raises:
        SystemExit: one says something else.
    """
    for name in servers.keys() - {"echo"}:
        with grpc.insecure_channel(servers[name].address, options=CHANNEL) as channel:
            infer = pb2_grpc.GRPCInferenceServiceStub(channel).ModelInfer
            said = [said_of(infer(pb2.ModelInferRequest.FromString(body), timeout=10)) for body in bodies]
        if not np.allclose(said, expected, rtol=1e-4, atol=1e-4):
            sys.exit(
                f"{name} answers {said[:3]}, and ONNX Runtime {expected[:3]}: they serve different models"
            )


def said_of(answer: Any) -> float:
    """Return the prediction in an answer of one row, raw or typed."""
    if answer.raw_output_contents:
        return float(np.frombuffer(answer.raw_output_contents[0], np.float32)[0])
    return float(answer.outputs[0].contents.fp32_contents[0])


def versions(servers: Mapping[str, Server]) -> dict[str, str]:
    """Return what each server is made of."""
    code = "import json; from importlib.metadata import version; "
    code += (
        "print(json.dumps({n: version(n) for n in ('mlserver', 'nvidia-pytriton', 'grpcio', 'onnxruntime')}))"
    )
    found = subprocess.run(
        [str(PEERS / "bin/python"), "-c", code], capture_output=True, text=True, check=True
    )
    peers = json.loads(found.stdout)
    with grpc.insecure_channel(servers["triton"].address, options=CHANNEL) as channel:
        told = pb2_grpc.GRPCInferenceServiceStub(channel).ServerMetadata(
            pb2.ServerMetadataRequest(), timeout=10
        )
    module = (HERE / "grpc_load/go.mod").read_text()
    grpc_go = re.search(r"google.golang.org/grpc (v\S+)", module)
    return {
        "grpcio": grpc.__version__,
        "mlserver": f"{peers['mlserver']} on grpcio {peers['grpcio']}",
        "triton": f"{told.version} of nvidia-pytriton {peers['nvidia-pytriton']}",
        "peers_onnxruntime": peers["onnxruntime"],
        "load_generator": f"grpc-go {grpc_go[1] if grpc_go else ''}",
    }
