"""What a user brings along serves as what Trimtab made: a model of their own, the mean of two, and what they change it for."""

import asyncio
import subprocess
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from trimtab.testing import LINEAR
from trimtab_runtime.errors import NotFound, Unavailable
from trimtab_runtime.testing import eventually
from trimtab_stack.environment import tools
from trimtab_stack.stack import Stack

pytestmark = [pytest.mark.real, pytest.mark.timeout(300)]
EXAMPLE = Path(__file__).parents[2] / "docs/examples/own-trainer"
BUILD = (sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d")
RNG = np.random.default_rng(1)


async def trimtab(stack: Stack, *words: str) -> tuple[int, str]:
    """Run the command as a user does; return its exit code and what it said."""
    command: Sequence[str] = [str(Path(sys.executable).with_name("trimtab")), *words]
    environ = tools() | {**stack.environ, "TRIMTAB_ACTOR": "ann", "COLUMNS": "200"}
    done = await asyncio.to_thread(
        subprocess.run, command, env=environ, capture_output=True, text=True, check=False
    )
    return done.returncode, done.stdout + done.stderr


async def test_a_users_model_serves_until_their_trainer_makes_another(
    make_world: Callable[..., Any], whole: Stack, sloping: Callable[[float], bytes], tmp_path: Path
) -> None:
    async with make_world("brought", strategy="immediate", gates="[{metric: mae, at_most: 3}]") as world:
        await world.backfill(48)
        good, bad, reference = (tmp_path / name for name in ("good.onnx", "bad.onnx", "usual.parquet"))
        good.write_bytes(sloping(2.0))
        bad.write_bytes(sloping(-9.0))
        x = RNG.normal(0, 3, 500)
        columns = {"request.x": x, "brought-road.y_mean_6h": 2 * x, "label": 2 * x + RNG.normal(0, 0.5, 500)}
        pq.write_table(pa.table(columns), reference)

        code, said = await trimtab(
            whole, "model", "register", world.name, str(bad), "--comment", "let us see"
        )
        assert (code, "succeeded" in said) == (0, True), said
        code, said = await trimtab(
            whole, "model", "register", world.name, str(good), "--reference", str(reference)
        )
        assert code == 0, said

        async def serves(number: int) -> bool:
            return bool((await world.trimtab.deployment(world.name)).champion.number == number)

        await eventually(lambda: serves(2), what="the user's model to serve")
        refused, serving = sorted(await world.trimtab.versions(world.name), key=lambda it: it.number)
        assert [gate.passed for gate in (*refused.gates, *serving.gates)] == [False, True]
        assert serving.candidate.parameters["origin"] == "good.onnx"
        row = {"id": "mine", "at": "2023-11-20T00:00:00Z", "road": "b", "x": 4.0}
        assert await answered_by(world, 2, row) == [8.0]

        await world.backfill(4)  # rows that neither of the two has seen
        code, said = await trimtab(whole, "model", "combine", world.name, "2", "1", "--weights", "19,1")
        assert code == 0, said
        await eventually(lambda: serves(3), what="the mean of the two to serve")
        assert await answered_by(world, 3, row) == pytest.approx([0.95 * 8.0 - 0.05 * 36.0], rel=1e-6)

        (tmp_path / "model.yaml").write_text(with_own_trainer(world.specs))
        code, said = await trimtab(whole, "apply", str(tmp_path / "model.yaml"))
        assert code == 1
        assert "model.yaml:10: spec.trainer.wheel: " in said and "No such file" in said, said
        await asyncio.to_thread(
            subprocess.run, [*BUILD, str(tmp_path)], cwd=EXAMPLE, check=True, capture_output=True
        )
        code, said = await trimtab(whole, "apply", str(tmp_path / "model.yaml"))
        assert code == 0, said
        await eventually(lambda: serves(4), what="a version of the user's trainer")
        runs = [run.event for run in await world.trimtab.runs(world.name)]
        assert [run.trigger for run in runs] == ["trainer", "registered", "registered", "registered"]
        assert runs[0].candidate.environment["trainer.mytrainer"] == "1.0"
        assert runs[0].candidate.metrics["mae"] < 1


async def answered_by(world: Any, number: int, row: dict[str, Any]) -> list[float]:
    """Return what a version answers, once it is the one that answers: serving hears of it after the registry says so."""

    async def probe() -> list[float]:
        with suppress(NotFound, Unavailable):  # the first has yet to come
            answer = await world.trimtab.predict(world.name, [row])
            return list(answer.predictions) if list(answer.versions) == [number] else []
        return []

    return await eventually(probe, what=f"an answer of version {number}")


def with_own_trainer(specs: str) -> str:
    """Return the model of a world's specs, made by the example's trainer."""
    model = specs[specs.index("kind: Model") :]
    wheel = "wheel: mytrainer-1.0-py3-none-any.whl\n    entry_point: mytrainer:Trainer"
    return model.replace(
        f"trainer: {LINEAR}", f"trainer:\n    kind: own\n    {wheel}\n    window: 5d\n    min_rows: 100"
    )
