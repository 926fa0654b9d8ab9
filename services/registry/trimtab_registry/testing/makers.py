"""Makers of what the registry takes: runs, evaluations, documents."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa
from trimtab_contracts.common.v1.common_pb2 import Artifact
from trimtab_contracts.registry.v1.registry_pb2 import Candidate
from trimtab_contracts.training.v1.training_pb2 import RunEvent
from trimtab_runtime.clock import to_timestamp

from trimtab_registry import messages
from trimtab_registry.usecases.entities import FinishedRun


def an_evaluation(
    rows: int = 400, *, error: float = 1.0, champion_error: float | None = None, not_asked: int = 0
) -> bytes:
    """Return an evaluation in which the candidate is wrong by about `error`, and the champion by its own.

    The champion was `not_asked` of so many of the oldest rows, and the candidate is right about those.
    """
    rng = np.random.default_rng(1)
    label = rng.uniform(5, 50, rows)
    said = [
        None if wrong is None else label + rng.normal(0, wrong, rows) for wrong in (error, champion_error)
    ]
    if not_asked and said[0] is not None and said[1] is not None:
        said[0][:not_asked], said[1][:not_asked] = label[:not_asked], np.nan
    table = pa.table(
        {
            "key": [str(row) for row in range(rows)],
            "event_time_ms": np.arange(rows),
            "label": label,
            "prediction": said[0],
            "champion_prediction": pa.nulls(rows, pa.float64())
            if said[1] is None
            else pa.array(said[1], from_pandas=True),
            "zone": rng.integers(0, 2, rows),
        }
    )
    sink = pa.BufferOutputStream()
    with pa.ipc.new_file(sink, table.schema) as writer:
        writer.write_table(table)
    return bytes(sink.getvalue())


def a_run(
    name: str,
    *,
    model: str = "minutes",
    champion: int = 0,
    evaluation: Artifact | None = None,
    features: Sequence[str] = ("distance",),
    **measured: Any,
) -> FinishedRun:
    """Return a run of `model` that succeeded, evaluated beside `champion`; `measured` is what more it says of itself."""
    event = RunEvent(
        id=f"{name}/succeeded",
        run_id=name,
        model=model,
        loop_id=f"loop-{name}",
        status=RunEvent.SUCCEEDED,
        as_of=to_timestamp(1_000),
        candidate=Candidate(
            run_id=name,
            model=Artifact(uri=f"/models/{name}", digest=name, size=3),
            evaluation=evaluation or Artifact(uri=f"/evaluations/{name}"),
            features=features,
            champion_version=champion,
            model_generation=1,
            **measured,
        ),
    )
    return messages.finished_run(event)


def documents(prefix: str = "", **model: Any) -> list[dict[str, Any]]:
    """Return two sources, a view and a model `minutes` that fit together, named with `prefix`; `model` changes its spec."""
    fields = {
        "trip": {"type": "string"},
        "at": {"type": "timestamp"},
        "zone": {"type": "integer"},
        "distance": {"type": "number"},
    }
    pickups = {"key": "trip", "event_time": "at", "lateness": "2h", "fields": fields}
    dropoffs = {**pickups, "fields": {**fields, "minutes": {"type": "number"}}}
    view = {
        "source": f"{prefix}dropoffs",
        "entity": "zone",
        "aggregates": [{"field": "minutes", "functions": ["mean"], "windows": ["1d"]}],
        "hop": "6h",
        "ttl": "60d",
    }
    minutes = {
        "task": "regression",
        "source": f"{prefix}pickups",
        "features": [f"{prefix}speed.*", "request.distance"],
        "label": {"source": f"{prefix}dropoffs", "on": "trip", "value": "minutes", "within": "4h"},
        "trainer": {"window": "90d"},
        "rollout": {"cap": 60},
        **model,
    }
    named = [("Source", "pickups", pickups), ("Source", "dropoffs", dropoffs), ("FeatureView", "speed", view)]
    return [
        {"apiVersion": "trimtab/v1", "kind": kind, "metadata": {"name": prefix + name}, "spec": spec}
        for kind, name, spec in [*named, ("Model", "minutes", minutes)]
    ]
