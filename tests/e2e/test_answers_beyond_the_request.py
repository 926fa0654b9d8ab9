"""A file of rows is answered like one by one, killed half-way, and gone on with; a bundle answers as serving does; a model's
answers are another's events."""

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
from trimtab_contracts import topics
from trimtab_runtime.clock import iso
from trimtab_runtime.errors import Unavailable
from trimtab_runtime.pipeline import read_partition
from trimtab_runtime.testing import eventually
from trimtab_stack import environment, ports
from trimtab_stack.stack import Stack
from typer.testing import CliRunner

LIMIT_S = 240
pytestmark = [pytest.mark.real, pytest.mark.timeout(LIMIT_S)]
HOURS = 32
MANY = 20_000


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
        await what_a_model_says_is_what_another_is_asked(world)


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

    await eventually(has_begun, what="a part of the answers")
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


CHAIN = """
---
kind: Source
metadata: {name: file-guesses}
spec:
  predictions_of: file
  key: id
  event_time: at
  lateness: 1h
  partitions: 2
  fields:
    id: {type: string}
    at: {type: timestamp}
    road: {type: string}
    prediction: {type: number}
    prediction_version: {type: integer}
---
kind: FeatureView
metadata: {name: file-guessed}
spec:
  source: file-guesses
  entity: road
  aggregates: [{field: prediction, functions: [mean], windows: [2h]}]
  hop: 1h
  ttl: 10d
---
kind: Model
metadata: {name: file-second}
spec:
  task: regression
  source: file-guesses
  score: [stream]
  features: [request.prediction, file-guessed.prediction_mean_2h]
  label: {source: file-truths, on: id, value: y, within: 1h}
  trainer: {kind: linear, window: 5d, min_rows: 100}
  rollout: {strategy: immediate, cap: 20}
"""


async def what_a_model_says_is_what_another_is_asked(world: World) -> None:
    await asyncio.to_thread(Path("chain.yaml").write_text, scoring(world.specs) + CHAIN)
    told(await run("apply", "chain.yaml", "--json"))

    async def guesses() -> list[dict[str, Any]]:
        await world.backfill(1)
        events = (await world.trimtab.events("file-guesses")).arrow()
        found: list[dict[str, Any]] = events.to_pylist()
        return found

    await eventually(guesses, what="the first predictions as events")
    begun = world.made
    await world.backfill(4)
    await world.watermarks.wait("archive", "file-guesses", world.now_ms)
    events = (await world.trimtab.events("file-guesses")).arrow().to_pylist()
    mine = [each for each in events if int(each["id"].removeprefix("file-")) >= begun]
    asked = {each["id"]: each for each in map(json.loads, world.sent["file-asks"])}
    assert sorted(each["id"] for each in mine) == sorted(f"file-{n}" for n in range(begun, world.made))
    assert all((each["road"], each["prediction_version"]) == (asked[each["id"]]["road"], 1) for each in mine)
    assert np.abs([each["prediction"] - 2 * asked[each["id"]]["x"] for each in mine]).mean() < 2

    done = await run("model", "train", "file-second", "--wait")
    assert done.exit_code == 0, (done.stderr, done.exception)

    async def said() -> list[Any]:
        await world.backfill(1)
        topic = topics.SCORES.named("file-guesses")
        return [
            topic.decode(record.value)
            for partition in range(2)
            async for batch in read_partition(world.servers, topic.name, partition)
            for record in batch
        ]

    scores = await eventually(said, what="what the second model says of the first one's")
    await world.watermarks.wait("archive", "file-guesses", world.now_ms)
    events = (await world.trimtab.events("file-guesses")).arrow().to_pylist()
    first = {each["id"]: each["prediction"] for each in events}
    assert {each.model for each in scores} == {"file-second"}
    assert {each.key for each in scores} <= set(first)
    # The second was taught by the truth, which the first one's answer is near to.
    assert np.abs([each.prediction - first[each.key] for each in scores]).mean() < 2


def scoring(specs: str) -> str:
    """Return a world's specs, whose model scores events too."""
    return specs.replace("source: file-asks", "source: file-asks\n  score: [request, stream]")


def addresses_of_nobody() -> dict[str, str]:
    return dict.fromkeys(SERVICES, f"127.0.0.1:{ports.choose()}")


async def archived_rows(world: World) -> list[dict[str, Any]]:
    events = await world.trimtab.events("file-asks")
    found: list[dict[str, Any]] = events.arrow().select(["id", "road", "x", "note"]).to_pylist()
    return found


def content(path: Path) -> str:
    """Return what is written there; nothing where no file is."""
    with suppress(FileNotFoundError):
        return path.read_text()
    return ""


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
