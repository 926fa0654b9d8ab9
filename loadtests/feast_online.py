"""Feast's online store: a feature view of numbers in SQLite, to be served by `feast serve`.

`python feast_online.py DIRECTORY`, given on standard input a JSON object of time, entities (a list of integers) and
features (name to list of numbers), makes the repository in that folder and fills it.
"""

import json
import sys
from datetime import timedelta
from pathlib import Path

import pandas as pd
from feast import Entity, FeatureStore, FeatureView, Field, FileSource, ValueType
from feast.types import Float64

CONFIG = """
project: bench
provider: local
registry: registry.db
online_store: {type: sqlite, path: online.db}
offline_store: {type: file}
entity_key_serialization_version: 3
"""


def main(directory: Path) -> None:
    told = json.load(sys.stdin)
    frame = pd.DataFrame({"zone": told["entities"], **told["features"]})
    frame["event_timestamp"] = pd.Timestamp(told["time"])
    directory.mkdir()
    (directory / "feature_store.yaml").write_text(CONFIG)
    frame.to_parquet(directory / "zones.parquet")
    zone = Entity(name="zone", join_keys=["zone"], value_type=ValueType.INT64)
    view = FeatureView(
        name="zones",
        entities=[zone],
        ttl=timedelta(0),
        schema=[Field(name=name, dtype=Float64) for name in told["features"]],
        source=FileSource(path=str(directory / "zones.parquet"), timestamp_field="event_timestamp"),
    )
    store = FeatureStore(repo_path=str(directory))
    store.apply([zone, view])
    store.write_to_online_store("zones", frame)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
