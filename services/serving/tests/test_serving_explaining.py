"""Explanations of a model of whose answers every term is known."""

import json
from collections.abc import AsyncIterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from trimtab_runtime.clock import iso
from trimtab_serving import testing
from trimtab_serving.errors import BadRow, NotExplained, VersionNotWarm
from trimtab_serving.explaining import Explanations
from trimtab_serving.testing import Instance
from trimtab_serving.versions import load

PROJECT = testing.project()
MODEL = PROJECT.model.name
AT = 19_700 * 86_400_000 + 6 * 3_600_000
REFERENCE = pa.table(
    dict(zip(PROJECT.features, [[1.0, 2.0, 3.0], [4.0, 5.0, 6.0], [20.0, 30.0, 40.0]], strict=True))
)


@pytest.fixture
async def instance(tmp_path: Path) -> AsyncIterator[Instance]:
    """Version 1 is live and has a reference; version 2, which is warm, has none."""
    made = Instance(tmp_path / "state")
    onnx = testing.linear_model([1.0, 2.0, 10.0])
    live = testing.version(tmp_path, 1, PROJECT.features, onnx, REFERENCE)
    previous = testing.version(tmp_path, 2, PROJECT.features, onnx)
    await made.hear(*PROJECT.specs, testing.deployment(MODEL, 1, live, previous=previous))
    yield made
    made.close()


def row(**fields: object) -> bytes:
    return json.dumps({"trip": "t", "at": iso(AT), "zone": 7, "distance": 5.0} | fields).encode()


def test_each_feature_contributes_its_term_beyond_that_of_the_reference(instance: Instance) -> None:
    found = Explanations(instance.board).explain(MODEL, [row(), row(distance=2.0)], samples=3)

    # What is missing, nobody having driven in zone 7, counts as 0.
    assert found.version.number == 1
    assert np.array_equal(
        [why.features for why in found.reasons], [[5, 6, np.nan], [2, 6, np.nan]], equal_nan=True
    )
    first, second = (why.shares for why in found.reasons)
    assert first.base == pytest.approx(2 + 10 + 300)
    assert first.prediction == pytest.approx(5 + 12)
    assert first.contributions == pytest.approx([3, 2, -300])
    assert second.contributions == pytest.approx([0, 2, -300])


def test_an_explanation_is_not_logged_as_a_prediction(instance: Instance) -> None:
    Explanations(instance.board).explain(MODEL, [row()])

    assert not any(batch.rows for batch in instance.log.drain([MODEL]))


def test_what_cannot_be_explained_says_so(instance: Instance) -> None:
    explain = Explanations(instance.board).explain

    with pytest.raises(
        NotExplained, match="version 2 of model 'minutes' has no reference rows to explain against"
    ):
        explain(MODEL, [row()], version=2)
    with pytest.raises(VersionNotWarm):
        explain(MODEL, [row()], version=9)
    with pytest.raises(BadRow, match="distance"):
        explain(MODEL, [row(distance="far")])
    with pytest.raises(BadRow, match="samples is 1, which gives no standard error"):
        explain(MODEL, [row()], samples=1)
    with pytest.raises(
        BadRow, match=r"explaining 1 rows by 1000000 samples asks model 'minutes' 8,000,000 times"
    ):
        explain(MODEL, [row()], samples=1_000_000)


def test_the_background_is_spread_over_the_whole_reference(tmp_path: Path) -> None:
    count = np.arange(1_000.0)
    sink = pa.BufferOutputStream()
    table = pa.table(dict.fromkeys(PROJECT.features, count))
    with pa.ipc.new_file(sink, table.schema) as writer:
        writer.write_table(table)

    version = load(
        "m", testing.graph(testing.linear_model([1, 1, 1])), 1, PROJECT.features, sink.getvalue().to_pybytes()
    )

    assert version.background[0][:, 0].tolist() == list(range(0, 1_000, 10))
