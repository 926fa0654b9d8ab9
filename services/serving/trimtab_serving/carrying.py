"""Predictions as rows of the sources that are made of them, for the partition of raw.<source> that the event's is.

An event time, a key and an arrival go along as they came, so what is late, or known when,
is as of the event; and a row has the prediction's id, whoever scores the event.
"""

from collections.abc import Iterator, Sequence
from typing import Any

import msgspec
import numpy as np
from trimtab_contracts import topics
from trimtab_core import chains
from trimtab_core.specs import Source
from trimtab_runtime import records
from trimtab_runtime.records import Outgoing

from trimtab_serving.usecases import Answer

_decode = msgspec.json.Decoder(dict[str, Any]).decode
_encode = msgspec.json.Encoder().encode


def rows(
    source: Source, answer: Answer, events: Sequence[Any], event_time_ms: Sequence[int]
) -> Iterator[Outgoing]:
    """Yield what a source's rows are of events and what was answered for each, in their order."""
    topic = topics.RAW.named(source.name).name
    headers = records.rows_headers(
        answer.ids, source.name, np.array(event_time_ms, np.int64), records.arrivals_ms(events)
    )
    of_classes = chains.probabilities(answer.classes)
    for at, (event, header) in enumerate(zip(events, headers, strict=True)):
        said = answer.predictions[at]
        row = _decode(event.value) | {
            chains.PREDICTION: answer.classes[int(said.argmax())] if answer.classes else float(said),
            chains.PREDICTION_ID: answer.ids[at],
            chains.PREDICTION_VERSION: answer.versions[at],
            **{name: float(said[place]) for name, place in of_classes.items()},
        }
        kept = {name: row[name] for name in source.spec.fields if name in row}
        yield Outgoing(topic, event.key, _encode(kept), [*header, records.IS_JSON], event.partition)


def watermark(source: Source, time_ms: int, partition: int) -> Outgoing:
    """Return what says that no row of this time or before will follow in a partition of a source."""
    headers = records.watermark_headers(
        source=source.name, time_ms=time_ms, origin=partition, origins=source.spec.partitions
    )
    return Outgoing(topics.RAW.named(source.name).name, None, b"", headers, partition)
