"""What becomes of records on their way to the archive."""

from types import SimpleNamespace

from trimtab_contracts import topics
from trimtab_contracts.serving.v1.serving_pb2 import PredictionBatch
from trimtab_feature_store.shelves import PREDICTIONS_PRESS


def test_prediction_batches_that_carry_a_watermark_alone_are_archived_as_nothing() -> None:
    batch = PredictionBatch(model="m", instance="serving-0", id="serving-0/1", watermark_ms=5)
    record = SimpleNamespace(value=topics.PREDICTIONS.encode(batch), offset=0)

    pressed = PREDICTIONS_PRESS.press(0, [record])

    assert pressed.rows.num_rows == 0
    assert pressed.refused == ()
