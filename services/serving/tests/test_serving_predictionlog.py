import threading
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from trimtab_serving import predictionlog
from trimtab_serving.predictionlog import Answered, Batch, PredictionLog

PARTITIONS = 2


class Model:
    """Stands for what answered: the log looks at its name only."""

    def __init__(self, model: str = "m") -> None:
        self.model = model


M = Model()


@pytest.fixture
def log() -> PredictionLog:
    return PredictionLog(lambda key: int(key) % PARTITIONS, PARTITIONS)


def said(keys: Sequence[int], times: Sequence[int], served: Any = M) -> Answered:
    count = len(keys)
    return Answered(
        served=served,
        ids=[f"id-{key}" for key in keys],
        keys=[str(key) for key in keys],
        event_time_ms=times,
        answered_ms=0,
        champion=np.zeros(count, np.float32),
        challengers=(),
        arms=(),
        features=np.zeros((count, 1), np.float32),
        latency_us=1,
    )


def answer(log: PredictionLog, keys: Sequence[int], times: Sequence[int], served: Any = M) -> None:
    ticket = log.enter(served.model, times)
    log.add(said(keys, times, served))
    log.leave(ticket)


def ids(batches: Sequence[Batch]) -> list[str]:
    return [answered.ids[at] for batch in batches for answered, at in batch.rows]


def watermarks(batches: Sequence[Batch]) -> dict[int, int]:
    return {batch.partition: batch.watermark_ms for batch in batches}


def test_a_row_goes_to_the_partition_of_its_key(log: PredictionLog) -> None:
    answer(log, [1, 2, 3], [10, 10, 10])

    found = {batch.partition: ids([batch]) for batch in log.drain([])}

    assert found == {0: ["id-2"], 1: ["id-1", "id-3"]}


def test_all_partitions_learn_how_far_the_answers_have_come(log: PredictionLog) -> None:
    answer(log, [2], [10])

    assert watermarks(log.drain([])) == {0: 10, 1: 10}
    assert log.drain(["m"]) == []


def test_the_watermark_stays_before_a_request_in_flight(log: PredictionLog) -> None:
    slow = log.enter("m", [5, 30])
    answer(log, [1], [20])

    assert watermarks(log.drain([])) == {1: 4, 0: 4}

    log.add(said([7, 7], [5, 30]))
    log.leave(slow)
    assert watermarks(log.drain([])) == {0: 30, 1: 30}


def test_a_request_in_flight_of_another_model_holds_nothing_up(log: PredictionLog) -> None:
    log.enter("other", [1])
    answer(log, [1], [20])

    assert watermarks(log.drain([])) == {0: 20, 1: 20}


def test_a_request_that_failed_holds_nothing_up(log: PredictionLog) -> None:
    log.leave(log.enter("m", [20]))

    assert watermarks(log.drain(["m"])) == {0: 20, 1: 20}


def test_the_watermark_never_goes_back(log: PredictionLog) -> None:
    answer(log, [1], [20])
    log.drain([])
    answer(log, [1], [3])

    assert [batch.watermark_ms for batch in log.drain([])] == [20]


def test_features_that_moved_on_carry_a_quiet_model_along(log: PredictionLog) -> None:
    log.passed("m", 99)

    assert watermarks(log.drain(["m"])) == {0: 99, 1: 99}


def test_only_the_last_batch_of_a_partition_carries_the_new_watermark(
    log: PredictionLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(predictionlog, "BATCH_ROWS", 2)
    answer(log, [2] * 3, [10] * 3)
    answer(log, [2], [11], Model())

    batches = [batch for batch in log.drain([]) if batch.partition == 0]

    assert [(len(batch.rows), batch.watermark_ms) for batch in batches] == [(2, 0), (1, 0), (1, 11)]


def test_a_batch_of_a_wide_model_holds_fewer_rows(
    log: PredictionLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(predictionlog, "BATCH_VALUES", 5)
    wide = said([2] * 3, [10] * 3)._replace(features=np.zeros((3, 2), np.float32))
    log.add(wide)
    log.add(wide._replace(served=Model(), features=np.zeros((3, 99), np.float32)))

    assert [len(batch.rows) for batch in log.drain([]) if batch.rows] == [2, 1, 1, 1, 1]


def test_a_batch_of_long_keys_holds_fewer_rows(log: PredictionLog, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(predictionlog, "BATCH_VALUES", 50)
    log.add(said([2] * 4, [10] * 4)._replace(keys=["2" * 40] * 4))

    assert [len(batch.rows) for batch in log.drain([]) if batch.rows] == [2, 2]


def test_a_batch_holds_answers_of_one_state_of_the_model_only(log: PredictionLog) -> None:
    before, after = Model(), Model()
    answer(log, [2, 2], [1, 1], before)
    answer(log, [2], [2], after)

    states = [{answered.served for answered, _ in batch.rows} for batch in log.drain([]) if batch.rows]

    assert states == [{before}, {after}]


def test_a_log_that_nobody_empties_counts_what_it_loses_and_refuses_nobody(
    log: PredictionLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(predictionlog, "_MOST_WAITING", 3)
    for number in range(5):
        answer(log, [number], [number])

    assert len(ids(log.drain([]))) + log.lost == 5
    assert log.lost > 0


def test_no_answer_comes_after_a_watermark_that_covers_it(log: PredictionLog) -> None:
    """Writers race the reader; whatever is drained must be newer than every watermark drained before."""
    done = threading.Event()
    clock = iter(range(1, 10**9))
    lock = threading.Lock()

    def ask(count: int) -> None:
        for _ in range(count):
            with lock:  # event time is taken and the request enters as one, as if asked in order
                at = next(clock)
                ticket = log.enter("m", [at])
            log.add(said([at], [at]))
            log.leave(ticket)

    threads = [threading.Thread(target=ask, args=(500,)) for _ in range(4)]
    for thread in threads:
        thread.start()
    seen, covered = 0, {0: 0, 1: 0}
    while not done.is_set():
        if not any(thread.is_alive() for thread in threads):
            done.set()
        for batch in log.drain(["m"]):
            for answered, at in batch.rows:
                assert answered.event_time_ms[at] > covered[batch.partition]
                seen += 1
            covered[batch.partition] = batch.watermark_ms
    assert seen == 2000
    assert covered == {0: 2000, 1: 2000}
