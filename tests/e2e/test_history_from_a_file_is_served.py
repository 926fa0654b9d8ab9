"""A file of history: to the archive and into the online features in one command, what is refused to where it can be replayed."""

import asyncio
import json
import random
from pathlib import Path
from typing import Any

import pytest
from click.testing import Result
from trimtab.cli import app
from trimtab.cli.session import addresses
from trimtab.client import Trimtab
from trimtab_runtime.clock import iso
from trimtab_runtime.testing import eventually
from trimtab_stack.stack import Stack
from typer.testing import CliRunner

LIMIT_S = 240
pytestmark = [pytest.mark.real, pytest.mark.timeout(LIMIT_S)]
HOUR = 3_600_000
START = 420_000 * HOUR
ROWS, ZONES, REFUSED = 3_000, 5, 30
SPECS = """
kind: Source
metadata: {name: trips}
spec:
  key: trip
  event_time: at
  lateness: 1h
  keep: 400d
  fields:
    trip: {type: string, unique_within: 2d}
    at: {type: timestamp}
    zone: {type: integer, min: 0}
    miles: {type: number}
---
kind: FeatureView
metadata: {name: trip_miles}
spec:
  source: trips
  entity: zone
  aggregates: [{field: miles, functions: [count, mean], windows: [5d, 200d]}]
  hop: 1h
  ttl: 300d
"""


async def test_history_from_a_file_is_served_and_what_was_refused_of_it_can_be_replayed(
    whole: Stack, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TRIMTAB_DIR", "stack")
    for name, value in whole.environ.items():
        monkeypatch.setenv(name, value)
    miles = write(Path("trips.yaml"), Path("trips.csv"))
    told(await run("apply", "trips.yaml", "--json"))
    first = told(await run("backfill", "trips", "trips.csv", "--json"))
    again = told(await run("backfill", "trips", "trips.csv", "--json"))
    twice = await run("ingest", "trips", "trips.csv", "--arrived", "event_time")

    assert "by `trimtab backfill`: leave it at that" in str(twice.exception)
    counts = ("taken before", "archived", "repeats", "refused")
    [done], [repeated] = first["files"], again["files"]
    assert [done[each] for each in counts] == [0, ROWS - REFUSED, 1, REFUSED]
    assert [repeated[each] for each in counts] == [ROWS + 1, 0, 0, 0]
    assert (first["views"], again["views"]) == (["trip_miles"], [])
    letters = told(await run("deadletter", "list", "--source", "trips", "--limit", "0", "--json"))
    assert {(each["topic"], each["state"]) for each in letters} == {("raw.trips", "waiting")}
    assert len(letters) == REFUSED
    async with Trimtab.connect(addresses(whole.environ)) as trimtab:
        audited = await trimtab.audit("FeatureView/trip_miles")
        assert [entry.action for entry in audited] == ["rebuilt", "created"]

        async def has_history() -> bool:
            found = await trimtab.features(
                ["trip_miles.*"], {"zone": list(range(ZONES))}, at_ms=START + (ROWS - 1) * HOUR
            )
            counts = found["trip_miles.miles_count_200d"].to_pylist()
            means = found["trip_miles.miles_mean_200d"].to_pylist()
            return counts == [len(each) for each in miles] and means == pytest.approx(
                [sum(each) / len(each) for each in miles], rel=1e-9
            )

        await eventually(has_history, what="the view with its history")


def write(specs: Path, trips: Path) -> list[list[float]]:
    """Write a trip an hour, some without a zone that there is, and one twice; return the miles of each zone before the last hour."""
    specs.write_text(SPECS)
    chance = random.Random(3)
    lines, miles = [], [list[float]() for _ in range(ZONES)]
    for n in range(ROWS):
        zone = -1 if n % (ROWS // REFUSED) == 7 else n % ZONES
        far = chance.uniform(0.1, 30)
        lines.append(f"t{n},{iso(START + n * HOUR)},{zone},{far!r}")
        if zone >= 0 and n < ROWS - 1:
            miles[zone].append(far)
    trips.write_text("\n".join(["trip,at,zone,miles", *lines, lines[-1]]))
    return miles


async def run(*words: str) -> Result:
    """Run a command in a thread, for it has an event loop of its own."""
    return await asyncio.to_thread(CliRunner().invoke, app, list(words))


def told(done: Result) -> Any:
    assert done.exit_code == 0, (done.stderr, done.exception)
    return json.loads(done.stdout)
