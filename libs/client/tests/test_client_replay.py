"""Replaying: what is sent in which step, and how far stages have come."""

from types import SimpleNamespace

import numpy as np
import pytest
from trimtab import replay
from trimtab.replay import Requests, Stream, Watermarks
from trimtab_contracts import topics
from trimtab_contracts.common.v1.common_pb2 import Watermark
from trimtab_runtime.clock import to_timestamp
from trimtab_runtime.errors import Unavailable


async def tell(marks: Watermarks, stage: str, partition: int, ms: int, instance: str = "") -> None:
    mark = Watermark(stage=stage, name="v", partition=partition, time=to_timestamp(ms), instance=instance)
    await marks._hear("watermarks", 0, [SimpleNamespace(value=topics.WATERMARKS.encode(mark))])


def test_a_step_holds_what_arrived_from_its_start_to_before_its_end() -> None:
    stream = Stream("s", 1, np.array([1, 5, 5, 9]), [b""] * 4, [b""] * 4)

    assert list(stream.between(1, 5)) == [0]
    assert list(stream.between(5, 9)) == [1, 2]
    assert list(Requests("m", np.array([1, 5]), [{}, {}], 10).between(6, 9)) == []


async def test_a_stage_has_come_as_far_as_its_slowest_partition_and_instance() -> None:
    marks = Watermarks("nowhere:1")
    await tell(marks, "features", 0, 10)
    assert marks.reached("features", "v", 2) is None

    await tell(marks, "features", 1, 7)
    assert marks.reached("features", "v", 2) == 7

    await tell(marks, "serving", 0, 9, "serving-0")
    await tell(marks, "serving", 0, 4, "serving-1")
    assert marks.reached("serving", "v") == 4


async def test_a_stage_that_does_not_come_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(replay, "PATIENCE_S", 0.01)
    marks = Watermarks("nowhere:1")
    await tell(marks, "features", 0, 10)

    with pytest.raises(Unavailable, match=r"stage features of v stands at 1970-01-01T00:00:00.010Z"):
        await marks.wait("features", "v", 11)
