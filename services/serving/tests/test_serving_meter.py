import math

from trimtab_serving.meter import Meter


def test_traffic_is_summed_by_model_and_then_forgotten() -> None:
    meter = Meter()
    for latency_us in range(1000, 101_000, 1000):
        meter.answered("busy", 2, latency_us)
    meter.failed("busy")
    meter.failed("broken")

    busy, broken = sorted(meter.take(), key=lambda traffic: -traffic.predictions)

    assert (busy.model, busy.predictions, busy.failures) == ("busy", 200, 1)
    assert (busy.p50_ms, round(busy.p99_ms)) == (50.5, 99)
    assert (broken.model, broken.predictions, broken.failures) == ("broken", 0, 1)
    assert math.isnan(broken.p50_ms)
    assert meter.take() == []
