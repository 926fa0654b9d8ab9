import math

from trimtab_serving.meter import Meter, Totals


def test_traffic_is_summed_by_model_and_then_forgotten() -> None:
    meter = Meter()
    for latency_us in range(1000, 101_000, 1000):
        meter.answered("busy", [1, 1], latency_us, 0)
    meter.failed("busy", 1, 5, 0)
    meter.failed("broken", 3, 5, 0)

    busy, broken = sorted(meter.take(), key=lambda traffic: -traffic.predictions)

    assert (busy.model, busy.predictions, busy.failures) == ("busy", 200, 1)
    assert (busy.p50_ms, round(busy.p99_ms)) == (50.5, 99)
    assert (broken.model, broken.predictions, broken.failures) == ("broken", 0, 1)
    assert math.isnan(broken.p50_ms)
    assert meter.take() == []


def test_what_each_version_did_is_summed_for_good() -> None:
    meter = Meter()
    meter.answered("m", [1, 2, 1], 100, at_ms=10)
    meter.take()
    meter.answered("m", [1], 50, at_ms=30)
    meter.failed("m", 1, 7, at_ms=20)

    totals = meter.totals()

    assert totals == meter.totals()
    assert totals["m", 1] == Totals(3, 2, 150, 1, 7, 30)
    assert totals["m", 2] == Totals(1, 1, 100, 0, 0, 10)
    assert [(each.predictions, each.failures) for each in meter.take()] == [(1, 1)]


def test_totals_are_whole_though_nobody_takes_what_was_noted() -> None:
    meter = Meter()
    for _ in range(250_000):
        meter.answered("m", (1,), 1, at_ms=0)

    assert meter.totals()["m", 1].requests == 250_000
    assert [each.predictions for each in meter.take()] == [200_000]
