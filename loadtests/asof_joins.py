"""As-of joins with polars and DuckDB: each spine row with the latest features of its entity before its time.

`python asof_joins.py SPINE.parquet FEATURES.parquet DAYS` reads both files, and to each line of standard input that names
an engine answers with a line of JSON: the seconds and CPU seconds that its join took, the rows that came back, and those
with features. Features older than so many days are none. What is joined lies in memory, in each engine's own form, before
the clock runs.
"""

import json
import sys
import time
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import duckdb
import polars
import pyarrow as pa

Join = Callable[[], pa.Table]


def with_polars(spine: Path, features: Path, days: int) -> Join:
    left, right = polars.read_parquet(spine), polars.read_parquet(features)

    def join() -> pa.Table:
        joined = left.sort("event_timestamp").join_asof(
            right.sort("event_timestamp"),
            on="event_timestamp",
            by="entity",
            allow_exact_matches=False,
            tolerance=timedelta(days=days),
            check_sortedness=False,
        )
        return joined.to_arrow()

    return join


def with_duckdb(spine: Path, features: Path, days: int) -> Join:
    connection = duckdb.connect()
    for name, path in (("spine", spine), ("features", features)):
        connection.execute(f"create table {name} as select * from read_parquet('{path}')")
    columns = [
        each[0] for each in connection.execute("describe features").fetchall() if each[0].startswith("f")
    ]
    fresh = f"f.event_timestamp >= s.event_timestamp - interval {days} days"
    wanted = ", ".join(f"case when {fresh} then f.{name} end as {name}" for name in columns)

    def join() -> pa.Table:
        return connection.sql(
            f"select s.*, {wanted} from spine s asof left join features f "
            "on s.entity = f.entity and s.event_timestamp > f.event_timestamp"
        ).to_arrow_table()

    return join


def main(spine: Path, features: Path, days: int) -> None:
    joins: dict[str, Join] = {
        "polars": with_polars(spine, features, days),
        "duckdb": with_duckdb(spine, features, days),
    }
    for line in sys.stdin:
        join = joins[line.strip()]
        begun, cpu = time.perf_counter(), time.process_time()
        joined = join()
        answer: dict[str, Any] = {
            "seconds": time.perf_counter() - begun,
            "cpu_seconds": time.process_time() - cpu,
            "rows": joined.num_rows,
            "with_features": joined.num_rows - joined["f0"].null_count,
        }
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]))
