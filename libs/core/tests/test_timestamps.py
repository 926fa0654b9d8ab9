"""Times and zones."""

from datetime import UTC, datetime
from zoneinfo import ZoneInfo

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from trimtab_core.timestamps import NOT_A_TIME, parse_timestamps, zone

YORK = zone("America/New_York")


@settings(max_examples=300, deadline=None)
@given(
    st.datetimes(datetime(1990, 1, 1), datetime(2050, 1, 1)),
    st.sampled_from(["America/New_York", "Europe/Zurich", "Asia/Kolkata"]),
)
def test_a_zone_agrees_with_the_standard_library(moment: datetime, name: str) -> None:
    moment = moment.replace(microsecond=0)
    instant = moment.replace(tzinfo=UTC)
    shown = instant.astimezone(ZoneInfo(name))
    at = np.array([int(instant.timestamp()) * 1000])

    assert zone(name).calendar("hour", at)[0] == shown.hour
    assert zone(name).calendar("weekday", at)[0] == shown.weekday()
    assert zone(name).calendar("month", at)[0] == shown.month
    expected = int(moment.replace(tzinfo=ZoneInfo(name)).timestamp()) * 1000
    real = datetime.fromtimestamp(expected / 1000, ZoneInfo(name)).replace(tzinfo=None) == moment
    if real:  # an hour that the clocks skip has no instant
        assert parse_timestamps([moment.isoformat(sep=" ")], zone(name))[0] == expected


def test_every_way_to_write_a_time_gives_the_same_instant() -> None:
    ways = [
        "2018-01-03T17:01:05Z",
        "2018-01-03 12:01:05",
        "2018-01-03T18:01:05+01:00",
        1514998865000,
        1514998865000.0,
    ]

    assert set(parse_timestamps(ways, YORK).tolist()) == {1514998865000}


def test_what_is_no_time_is_told_so() -> None:
    nothing = ["", "yesterday", None, True, "2018-13-01 00:00:00", "2018-01-03", [], float("inf")]

    assert (parse_timestamps(nothing[:5], YORK) == NOT_A_TIME).all()
    assert parse_timestamps(["2018-01-03 00:00:00", "2018-99-99 99:99:99"], YORK)[1] == NOT_A_TIME
    assert parse_timestamps([[], float("inf")], YORK).tolist() == [NOT_A_TIME] * 2
