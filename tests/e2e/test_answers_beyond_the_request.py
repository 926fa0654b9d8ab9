"""A file of rows is answered like one by one, killed half-way, and gone on with; a bundle answers as serving does."""

import asyncio
import csv
import json
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from click.testing import Result
from trimtab.cli import app
from trimtab.client import SERVICES, Trimtab
from trimtab.testing import HOUR_MS, World
from trimtab_runtime.clock import iso
from trimtab_runtime.errors import Unavailable
from trimtab_runtime.testing import eventually
from trimtab_stack import environment, ports
from trimtab_stack.stack import Stack
from typer.testing import CliRunner

LIMIT_S = 240
pytestmark = [pytest.mark.real, pytest.mark.timeout(LIMIT_S)]
HOURS = 32
MANY = 12_000


async def test_a_file_and_a_bundle_are_answered_as_requests_are(
    make_world: Callable[..., Any], whole: Stack, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TRIMTAB_DIR", "stack")
    for name, value in whole.environ.items():
        monkeypatch.setenv(name, value)
    async with make_world("file") as world:
        await world.backfill(HOURS)
        await world.first_version()
        await rows_of_any_time_are_answered_as_they_would_have_been(world)
        await rows_that_cannot_be_read_are_told_and_the_others_answered()
        await a_killed_command_is_gone_on_with(world)
        await a_bundle_answers_as_serving_does(world)


async def rows_of_any_time_are_answered_as_they_would_have_been(world: World) -> None:
    # Of the first rows the online features have forgotten the windows: the ring holds a day and three hours.
    made = await world.trimtab.training_set("file", world.now_ms - HOURS * HOUR_MS, world.now_ms)
    old = made.arrow().slice(6 * 40, 40).to_pylist()
    features = ["request.x", "file-road.y_mean_6h"]
    matrix = np.array([[each[name] for name in features] for each in old], np.float32)
    expected = await world.trimtab.score("file", features, matrix, version=1)
    at_of = {each["key"]: each["event_time_ms"] for each in old}
    asked = [row for row in await archived_rows(world) if row["id"] in at_of]
    rows = [row | {"at": iso(at_of[row["id"]])} for row in asked]
    now = [row | {"id": f"new-{n}", "at": iso(world.now_ms + n * 1000)} for n, row in enumerate(rows)]
    write(Path("rows.csv"), [*now, *rows])

    told(await run("predict", "file", "rows.csv", "-o", "answers.parquet", "--json"))

    answers = {each["id"]: each for each in pq.read_table("answers.parquet").to_pylist()}
    online = await world.trimtab.predict("file", now, version=1)
    assert [answers[row["id"]]["prediction"] for row in now] == list(online.predictions)
    assert [answers[each["key"]]["prediction"] for each in old] == pytest.approx(expected.tolist(), rel=1e-6)
    assert {each["version"] for each in answers.values()} == {1}
    forgotten = await world.trimtab.predict("file", rows, version=1)
    assert [answers[row["id"]]["prediction"] for row in rows] != pytest.approx(list(forgotten.predictions))


async def rows_that_cannot_be_read_are_told_and_the_others_answered() -> None:
    lines = spoil(Path("rows.csv"), Path("bad.csv"))

    done = await run("predict", "file", "bad.csv", "-o", "bad.jsonl")

    assert (done.exit_code, "row 2: x 'far' is no number" in done.stderr) == (1, True)
    answers = [json.loads(line) for line in content(Path("bad.jsonl")).splitlines()]
    assert ["prediction" in each for each in answers] == [n != 1 for n in range(lines)]


async def a_killed_command_is_gone_on_with(world: World) -> None:
    chance = np.random.default_rng(1)
    at = world.now_ms - np.sort(chance.integers(1, HOURS * HOUR_MS, MANY))[::-1]
    rows = [
        {"id": f"m{n}", "at": iso(t), "road": "abc"[n % 3], "x": round(x, 3)}
        for n, (t, x) in enumerate(zip(at.tolist(), chance.normal(0, 3, MANY).tolist(), strict=True))
    ]
    write(Path("many.csv"), rows)
    words = ["predict", "file", "many.csv", "-o", "many.csv.out.csv"]
    command = await asyncio.to_thread(
        subprocess.Popen, [str(Path(sys.executable).parent / "trimtab"), *words], stderr=subprocess.DEVNULL
    )
    job = Path("many.csv.out.csv.job")

    async def has_begun() -> str:
        return content(job)

    await eventually(has_begun, what="a part of the answers", deadline_s=60)
    command.kill()
    await asyncio.to_thread(command.wait)
    assert 0 < json.loads(content(job))["rows"] < MANY

    told(await run(*words, "--json"))

    answers = list(csv.DictReader(content(Path("many.csv.out.csv")).splitlines()))
    assert [(each["row"], each["id"]) for each in answers] == [(str(n + 1), f"m{n}") for n in range(MANY)]
    assert all(each["prediction"] and not each["error"] for each in answers)
    assert not content(job)


async def a_bundle_answers_as_serving_does(world: World) -> None:
    done = told(await run("model", "export", "file", "-o", "file.bundle", "--unsigned", "--json"))
    assert (done["version"], done["signed"], done["features until"]) == (1, False, iso(world.now_ms))
    rows = [{"id": f"b{n}", "at": iso(world.now_ms), "road": road, "x": 1.5} for n, road in enumerate("abcd")]
    known = await world.trimtab.predict("file", rows, version=1)
    address = f"127.0.0.1:{ports.choose()}"
    environ = {**environment.inherited(), "TRIMTAB_GRPC_ADDRESS": address, "TRIMTAB_STATE_DIR": "edge"}
    words = [sys.executable, "-m", "trimtab_serving", "--bundle", "file.bundle", "--unsigned"]
    edge = await asyncio.to_thread(subprocess.Popen, words, env=environ, stderr=subprocess.DEVNULL)
    try:
        async with Trimtab.connect({**addresses_of_nobody(), "serving": address}) as alone:

            async def answers() -> list[float]:
                with suppress(Unavailable):  # it is about to begin
                    return list((await alone.predict("file", rows)).predictions)
                return []

            assert await eventually(answers, what="an answer from the bundle") == list(known.predictions)
    finally:
        edge.terminate()
        await asyncio.to_thread(edge.wait)


def addresses_of_nobody() -> dict[str, str]:
    return dict.fromkeys(SERVICES, f"127.0.0.1:{ports.choose()}")


async def archived_rows(world: World) -> list[dict[str, Any]]:
    events = await world.trimtab.events("file-asks")
    found: list[dict[str, Any]] = events.arrow().select(["id", "road", "x", "note"]).to_pylist()
    return found


def content(path: Path) -> str:
    """Return what is written there; nothing where no file is."""
    return path.read_text() if path.exists() else ""


def spoil(good: Path, bad: Path) -> int:
    """Copy a file with rubbish in its second row, and return how many rows there are."""
    lines = good.read_text().splitlines()
    lines[2] = lines[2].rsplit(",", 1)[0] + ",far"
    bad.write_text("\n".join(lines))
    return len(lines) - 1


def write(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, ["id", "at", "road", "note", "x"], restval="")
        writer.writeheader()
        writer.writerows(rows)


async def run(*words: str) -> Result:
    """Run a command in a thread, for it has an event loop of its own."""
    return await asyncio.to_thread(CliRunner().invoke, app, list(words))


def told(done: Result) -> Any:
    assert done.exit_code == 0, (done.stderr, done.exception)
    return json.loads(done.stdout)
