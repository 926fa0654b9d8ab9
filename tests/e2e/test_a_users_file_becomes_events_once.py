"""A user's own file: a project is made of it, and its rows go in once, though the command is killed half-way."""

import json
import shlex
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
import typer.testing
from aiokafka import AIOKafkaConsumer
from trimtab import project
from trimtab.cli import app
from trimtab.cli.session import addresses
from trimtab.client import Trimtab
from trimtab_contracts import topics
from trimtab_runtime.testing import eventually
from trimtab_stack.stack import Stack

LIMIT_S = 240
pytestmark = [pytest.mark.real, pytest.mark.timeout(LIMIT_S)]
TRIMTAB = Path(sys.executable).parent / "trimtab"
ROWS = 12_000
SLOWLY = ("--speed", "1000000")
"""All rows would take more than two minutes, so that the command is surely under way when it is killed."""


async def test_a_users_file_becomes_events_once_though_the_command_is_killed(
    whole: Stack, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TRIMTAB_DIR", "stack")
    for name, value in whole.environ.items():
        monkeypatch.setenv(name, value)
    write_a_table(Path("meters.csv"))
    job = Path("stack") / "ingest"

    def acknowledged() -> int:
        return sum(json.loads(path.read_text())["acknowledged"] for path in job.glob("*.json"))

    async def some() -> int:
        assert first.poll() is None, first.communicate()
        return acknowledged()

    told = typer.testing.CliRunner().invoke(app, ["init", "--from", "meters.csv"]).output
    ingest = shlex.split(next(line for line in told.splitlines() if "trimtab ingest" in line))[1:]
    async with Trimtab.connect(addresses(whole.environ)) as trimtab:
        await trimtab.apply(project.load(Path("meters")).resources, actor="test")
    first = start(*ingest, *SLOWLY)
    await eventually(some, what="an acknowledged row")
    first.kill()
    first.communicate()
    at_its_end = acknowledged()
    second = start(*ingest, "--json")
    out, said = second.communicate(timeout=LIMIT_S)

    assert second.returncode == 0, said
    [done] = json.loads(out)
    assert 0 < at_its_end < ROWS
    assert done["acknowledged"] == ROWS
    assert done["sent"] + done["found in doubt"] == ROWS - at_its_end
    ids = await ids_in(topics.EVENTS.named("meters").name, whole, ROWS)
    assert (len(ids), set(ids.values())) == (ROWS, {1})


def write_a_table(path: Path) -> None:
    """Rows as a person has them: parted by semicolons, the day first, a comma for the point."""
    days = [f"{n % 28 + 1:02}.{n // 28 % 12 + 1:02}.{2000 + n // 336}" for n in range(ROWS // 8)]
    lines = [f"{n % 8};{days[n // 8]};{n % 77},5" for n in range(ROWS)]
    path.write_text("\n".join(["meter;read on;kWh", *lines]))


def start(*words: str) -> subprocess.Popen[str]:
    return subprocess.Popen([TRIMTAB, *words], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


async def ids_in(topic: str, stack: Stack, count: int) -> Counter[str]:
    """The ids of the rows in a topic, once `count` are there, and nothing is left to be read."""
    found: Counter[str] = Counter()
    consumer = AIOKafkaConsumer(
        topic,
        bootstrap_servers=stack.environ["TRIMTAB_KAFKA_SERVERS"],
        auto_offset_reset="earliest",
        isolation_level="read_committed",
    )

    async def all_read() -> bool:
        batches = await consumer.getmany(timeout_ms=200)
        headers = [dict(record.headers) for batch in batches.values() for record in batch]
        found.update(each["ce_id"].decode() for each in headers if "ce_id" in each)
        return not headers and len(found) >= count

    await consumer.start()
    try:
        await eventually(all_read, what=f"{count} rows in {topic}")
    finally:
        await consumer.stop()
    return found
