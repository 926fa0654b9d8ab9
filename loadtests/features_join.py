"""Point-in-time join: 200,000 spine rows, 1,000,000 feature rows of 10 features, beside Feast, polars and DuckDB.

Trimtab's join is fed as a training set is, Arrow tables in order of event time, and knows what had arrived when; its
peers look for the latest features before a row's time. All answer from memory but Feast's, which reads its file. A hundredth
of the spine asks for entities that nobody knows, and another before anything is known: they are to be answered too.
"""

import json
import time
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray
from stream import BEGIN, HOUR, Peer, peer_process, tell
from trimtab_core import specs
from trimtab_core.pointintime import point_in_time
from trimtab_core.slots import Layout

HERE = Path(__file__).parent
ROUNDS, FEAST_ROUNDS = 3, 2
SPINE, ROWS, FEATURES = 200_000, 1_000_000, 10
ENTITIES = 10_000
"""Feast pairs each spine row with all of its entity's feature rows: with 1,000 entities 24 GiB were not enough."""
DAYS, FRESH_DAYS = 30, 7
FUNCTION = "last"
"""Over the window: what the peers answer too."""
VERSUS_FEAST, VERSUS_DUCKDB = 10.0, 2.0


def versus_peers(peers: Path, directory: Path) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """Return the claims, and what was measured."""
    spine, features = tables()
    paths = [str(directory / name) for name in ("spine.parquet", "features.parquet")]
    for table, path in zip((spine, features), paths, strict=True):
        pq.write_table(dated(table), path)
    python = [str(peers), "-W", "ignore"]
    asof = [*python, str(HERE / "asof_joins.py"), *paths, str(FRESH_DAYS)]
    feast = [*python, str(HERE / "feast_join.py"), str(directory / "join"), *paths, str(FRESH_DAYS)]
    rounds: dict[str, list[dict[str, float]]] = {"trimtab": [], "polars": [], "duckdb": [], "feast": []}
    with peer_process(asof) as process:
        for number in range(ROUNDS + 1):  # the first one warms up
            found = {
                "trimtab": join(spine, features),
                **{name: ask(process, name) for name in ("polars", "duckdb")},
            }
            for name, each in found.items():
                rounds[name] += [each] if number else []
    with peer_process(feast) as process:
        rounds["feast"] = [ask(process, "join") for _ in range(FEAST_ROUNDS)]
    seconds = {name: median(each["seconds"] for each in found) for name, found in rounds.items()}
    versus = {
        name: median(
            ours["seconds"] / theirs["seconds"]
            for ours, theirs in zip(rounds["trimtab"], rounds[name], strict=True)
        )
        for name in ("duckdb", "polars")
    }
    unanswered = SPINE - int(rounds["trimtab"][0]["rows"])
    claims: list[dict[str, Any]] = [
        {
            "claim": "pit_versus_feast",
            "value": round(seconds["feast"] / seconds["trimtab"], 1),
            "at_least": VERSUS_FEAST,
        },
        {"claim": "pit_versus_duckdb", "value": round(versus["duckdb"], 2), "at_most": VERSUS_DUCKDB},
        {"claim": "pit_rows_unanswered", "value": unanswered, "at_most": 0},
    ]
    return claims, {
        "spine_rows": SPINE,
        "feature_rows": ROWS,
        "features": FEATURES,
        "function": FUNCTION,
        "versus_polars": round(versus["polars"], 2),
        "seconds": {name: [round(each["seconds"], 3) for each in found] for name, found in rounds.items()},
        "median_seconds": {name: round(each, 3) for name, each in seconds.items()},
        "median_cpu_seconds": {
            name: round(median(each["cpu_seconds"] for each in found), 3) for name, found in rounds.items()
        },
        "rows": {name: int(found[0]["rows"]) for name, found in rounds.items()},
        "rows_with_features": {name: int(found[0]["with_features"]) for name, found in rounds.items()},
    }


def tables() -> tuple[pa.Table, pa.Table]:
    """Return the spine and the features, in order of time; all has arrived when it happened."""
    rng = np.random.default_rng(5)
    until = BEGIN + DAYS * 24 * HOUR
    known_from = BEGIN + HOUR
    at = np.sort(rng.integers(known_from, until, ROWS))
    columns = {f"f{number}": rng.normal(size=ROWS) for number in range(FEATURES)}
    features = pa.table({"entity": rng.integers(0, ENTITIES, ROWS), "event_time_ms": at, **columns})
    asked_at = np.sort(rng.integers(known_from, until, SPINE))
    asked_at[: SPINE // 100] = np.sort(rng.integers(BEGIN, known_from, SPINE // 100))
    entities = rng.integers(0, ENTITIES, SPINE)
    entities[rng.choice(SPINE, SPINE // 100, replace=False)] = ENTITIES + 1
    return pa.table({"entity": entities, "event_time_ms": asked_at}), features


def dated(table: pa.Table) -> pa.Table:
    """Return a table with its times as the peers take them."""
    times = pc.cast(table["event_time_ms"], pa.timestamp("ms", "UTC"))
    return table.drop_columns(["event_time_ms"]).append_column("event_timestamp", times)


def join(spine: pa.Table, features: pa.Table) -> dict[str, float]:
    """Join as a training set is joined, and return what it took, and how many rows were answered and with features."""
    names = [f"f{number}" for number in range(FEATURES)]
    aggregates = [{"field": name, "functions": [FUNCTION], "windows": [f"{FRESH_DAYS}d"]} for name in names]
    spec = {"source": "s", "entity": "entity", "hop": "1h", "ttl": "30d", "aggregates": aggregates}
    view = specs.parse("FeatureView", {"metadata": {"name": "features"}, "spec": spec})
    assert isinstance(view, specs.FeatureView)
    layout = Layout.of(view.spec, 2 * HOUR)
    begun, cpu = time.perf_counter(), time.process_time()
    at = ints(features["event_time_ms"])
    found = point_in_time(
        layout,
        texts(features["entity"]),
        at,
        np.stack([features[name].to_numpy() for name in layout.fields], axis=1),
        at,
        texts(spine["entity"]),
        ints(spine["event_time_ms"]),
    )
    return {
        "seconds": time.perf_counter() - begun,
        "cpu_seconds": time.process_time() - cpu,
        "rows": len(found),
        "with_features": int((~np.isnan(found[:, 0])).sum()),
    }


def ints(column: Any) -> NDArray[np.int64]:
    return np.asarray(column.to_numpy(), np.int64)


def texts(column: Any) -> pa.Array:
    """Return entities as the texts that name them, as historical.py does."""
    coded = column.combine_chunks().dictionary_encode()
    return coded.dictionary.cast(pa.string()).take(coded.indices)


def ask(process: Peer, what: str) -> dict[str, float]:
    """Return what a peer says of one join."""
    return dict(json.loads(tell(process, what)))
