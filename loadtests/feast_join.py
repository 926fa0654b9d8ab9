"""Feast's point-in-time join with its default local offline store.

`python feast_join.py DIRECTORY SPINE.parquet FEATURES.parquet DAYS` makes a repository in that folder, and to each line of
standard input answers with a line of JSON: the seconds and CPU seconds that a join took, the rows that came back, and
those with features. Features older than so many days are none. The spine lies in memory; Feast reads the features from
their file, which is its only way.
"""

import json
import resource
import sys
import time
from datetime import timedelta
from pathlib import Path

import pandas as pd
import pyarrow.parquet as pq
from feast import Entity, FeatureStore, FeatureView, Field, FileSource, ValueType
from feast.types import Float64
from feast_online import CONFIG

MOST_MEMORY = 12 * 2**30
"""So that a join too large ends here, and not whatever else is running."""


def main(directory: Path, spine: Path, features: Path, days: int) -> None:
    resource.setrlimit(resource.RLIMIT_AS, (MOST_MEMORY, MOST_MEMORY))
    directory.mkdir()
    (directory / "feature_store.yaml").write_text(CONFIG)
    names = [name for name in pq.read_schema(features).names if name.startswith("f")]
    entity = Entity(name="entity", join_keys=["entity"], value_type=ValueType.INT64)
    view = FeatureView(
        name="features",
        entities=[entity],
        ttl=timedelta(days=days),
        schema=[Field(name=name, dtype=Float64) for name in names],
        source=FileSource(path=str(features), timestamp_field="event_timestamp"),
    )
    store = FeatureStore(repo_path=str(directory))
    store.apply([entity, view])
    asked = pd.read_parquet(spine)
    wanted = [f"features:{name}" for name in names]
    for _ in sys.stdin:
        begun, cpu = time.perf_counter(), time.process_time()
        joined = store.get_historical_features(entity_df=asked, features=wanted).to_df()
        answer = {
            "seconds": time.perf_counter() - begun,
            "cpu_seconds": time.process_time() - cpu,
            "rows": len(joined),
            "with_features": int(joined[names[0]].notna().sum()),
        }
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), Path(sys.argv[3]), int(sys.argv[4]))
