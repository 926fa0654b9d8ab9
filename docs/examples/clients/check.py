"""Builds the Go and the Java example from the protos, and has both ask a real door: `make example-clients`.

The door answers for a small model, with no Kafka around. What each example prints is held
to what the Python client is told.
"""

import asyncio
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import numpy as np
from trimtab.predicting import Predictor
from trimtab_core.slots import FoldState, Layout
from trimtab_runtime import door
from trimtab_serving import grpc_api, oip_api, testing
from trimtab_serving.app import register
from trimtab_serving.testing import Instance
from trimtab_stack import ports

HERE = Path(__file__).parent
PROTOS = HERE.parents[2] / "protos"
SERVING = "trimtab_contracts/serving/v1/serving.proto"
MIDNIGHT = 19_700 * 86_400_000
ROW = {"trip": "1", "at": "2023-12-09T06:00:00Z", "zone": 7, "distance": 2.5}


def run(*argv: str, at: Path) -> str:
    """Run a command and return what it prints."""
    done = subprocess.run(argv, cwd=at, text=True, stdout=subprocess.PIPE)
    if done.returncode:
        sys.exit(f"{' '.join(argv)} ended with {done.returncode}:\n{done.stdout}")
    return done.stdout


def go() -> Sequence[str]:
    """Generate the stubs and build the example in Go; return the command that runs it."""
    at = HERE / "go"
    tools = ("google.golang.org/protobuf/cmd/protoc-gen-go", "google.golang.org/grpc/cmd/protoc-gen-go-grpc")
    run("go", "build", "-o", "build/", *tools, at=at)
    package = f"M{SERVING}=example/predict/serving"
    run(
        *(sys.executable, "-m", "grpc_tools.protoc", f"-I{PROTOS}", SERVING),
        *(f"--plugin={each.name}={each}" for each in (at / "build").glob("protoc-gen-*")),
        *("--go_out=.", "--go_opt=module=example/predict", f"--go_opt={package}"),
        *("--go-grpc_out=.", "--go-grpc_opt=module=example/predict", f"--go-grpc_opt={package}"),
        at=at,
    )
    run("go", "build", "-o", "build/predict", ".", at=at)
    return [str(at / "build" / "predict")]


def java() -> Sequence[str]:
    """Generate the stubs and build the example in Java; return the command that runs it."""
    at = HERE / "java"
    run("mvn", "-q", "-B", "package", "dependency:copy-dependencies", "-DskipTests", at=at)
    return ["java", "-cp", f"{at}/target/classes{os.pathsep}{at}/target/dependency/*", "example.Predict"]


async def instance(path: Path) -> Instance:
    """Return an instance with one live version, in whose zone 7 one did 20 mph yesterday."""
    project, made = testing.project(), Instance(path / "state")
    fold = FoldState(Layout.of(project.speed.spec, project.dropoffs.spec.lateness))
    fold.fold(["7"], np.array([MIDNIGHT]), np.array([[20.0]]))
    version = testing.version(path, 1, project.features, testing.linear_model([1, 0, 10]))
    await made.hear(
        *project.specs,
        *testing.features(project.speed.name, fold, MIDNIGHT + 86_400_000, 2),
        testing.deployment(project.model.name, 1, version),
    )
    return made


def ask(commands: Sequence[Sequence[str]], address: str, model: str) -> None:
    """Have each command ask, and hold what it prints to what the Python client is told."""
    with Predictor.connect(address) as predictor:
        said = predictor.predict(model, [ROW])
    answer = f"{said.predictions[0]:g}"
    for command in commands:
        printed = run(*command, address, model, json.dumps(ROW), at=HERE)
        print(f"$ {Path(command[0]).name} ...\n{printed}")
        lines = printed.splitlines()
        expected = [
            f"version 1, champion: {answer}",
            "view speed: as of 2023-12-09T06:00:00Z",
            f"streamed: {answer}",
            "streamed, refused (3):",
            f"streamed: {answer}",
        ]
        if len(lines) != len(expected) or not all(map(str.startswith, lines, expected)):
            sys.exit(f"it should have said {expected}")


async def main() -> None:
    """Build, open the door, and ask."""
    commands = [go(), java()]
    with tempfile.TemporaryDirectory() as folder:
        made = await instance(Path(folder))
        address = f"127.0.0.1:{ports.choose()}"
        add = partial(register, made.predictions, made.board)
        async with door.serving(
            address, add, [grpc_api.SERVICE, oip_api.SERVICE], threads=2, max_waiting=64
        ) as ready:
            ready(True)
            await asyncio.to_thread(ask, commands, address, "minutes")
        made.close()
    print("Go, Java and Python are told the same")


if __name__ == "__main__":
    asyncio.run(main())
