"""Quix Streams with the same windows: the rows grouped by zone, hopping windows of the same durations and step.

Told by its argument, a JSON object, where and which, and by a line on standard input how many records to take,
watermarks included, it answers with the CPU seconds that the process has used since it last answered. Its guarantee is
Quix's default, at least once, and a window is published once, when it closes: both ask less of it than of Trimtab, which
is exact and publishes each change.
"""

import json
import sys
import threading
import time
from datetime import datetime
from typing import Any, NamedTuple

import orjson
from quixstreams import Application
from quixstreams.dataframe.windows.aggregations import Count, Max, Mean
from quixstreams.models import JSONDeserializer
from quixstreams.models.serializers.exceptions import IgnoreMessage

AGGREGATES = {"mean": Mean, "max": Max}


class Gate:
    """Lets as many rows pass as were asked for, and says when they have all been folded."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._wanted = self._entered = self._folded = 0

    def allow(self, count: int) -> None:
        """Let `count` more pass, and wait until they are folded."""
        with self._changed:
            self._wanted += count
            self._changed.notify_all()
            self._changed.wait_for(lambda: self._folded >= self._wanted)

    def enter(self) -> None:
        """Wait to be allowed."""
        self._entered += 1
        if self._entered > self._wanted:
            with self._changed:
                self._changed.wait_for(lambda: self._entered <= self._wanted)

    def folded(self) -> None:
        """Say that one more is done."""
        self._folded += 1
        if self._folded >= self._wanted:
            with self._changed:
                self._changed.notify_all()


class Asked(NamedTuple):
    """Which windows of what."""

    servers: str
    topic: str
    entity: str
    fields: dict[str, list[str]]
    """The functions of each field."""
    windows_ms: list[int]
    step_ms: int
    grace_ms: int
    state_dir: str


def main(asked: Asked) -> None:
    gate = Gate()

    def loads(value: bytes) -> Any:
        """Read a row; the watermarks among them count, and are none."""
        gate.enter()
        if value:
            return orjson.loads(value)
        gate.folded()
        raise IgnoreMessage

    app = Application(
        broker_address=asked.servers,
        consumer_group="quix",
        auto_offset_reset="earliest",
        consumer_extra_config={"isolation.level": "read_committed"},
        state_dir=asked.state_dir,
        loglevel="ERROR",
    )
    rows = app.topic(
        asked.topic,
        key_deserializer="bytes",
        value_deserializer=JSONDeserializer(loads=loads),
        timestamp_extractor=event_time_ms,
    )
    grouped = app.dataframe(rows).group_by(asked.entity)
    grouped = grouped.update(lambda _: gate.folded())
    for window_ms in asked.windows_ms:
        aggregates = {
            f"{field}_{function}": Count() if function == "count" else AGGREGATES[function](field)
            for field, functions in asked.fields.items()
            for function in functions
        }
        windows = grouped.hopping_window(window_ms, asked.step_ms, asked.grace_ms).agg(**aggregates).final()
        windows.to_topic(app.topic(f"quix-{window_ms}", key_serializer="json"))
    threading.Thread(target=answer, args=(gate,), daemon=True).start()
    app.run()


def event_time_ms(_: Any, headers: Any, *__: Any) -> int:
    """Return the event time, as the header says it: ISO 8601, UTC."""
    return round(datetime.fromisoformat(dict(headers)["ce_time"].decode()).timestamp() * 1000)


def answer(gate: Gate) -> None:
    """Answer each line of standard input."""
    before = time.process_time()
    for line in sys.stdin:
        gate.allow(int(line))
        now = time.process_time()
        print(now - before, flush=True)
        before = now


if __name__ == "__main__":
    main(Asked(**json.loads(sys.argv[1])))
