"""Times and zones."""

from datetime import UTC, datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from trimtab_core.timestamps import NOT_A_TIME, CalendarFunction, parse_timestamp, parse_timestamps, zone

YORK = zone("America/New_York")


@settings(max_examples=300)
@given(
    st.datetimes(datetime(1990, 1, 1), datetime(2050, 1, 1)),
    st.sampled_from(["America/New_York", "Europe/Zurich", "Asia/Kolkata"]),
)
def test_a_zone_agrees_with_the_standard_library(moment: datetime, name: str) -> None:
    moment = moment.replace(microsecond=0, fold=0)  # a text without a zone has no fold: the first is meant
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


texts = st.builds(
    lambda moment, mark, decimals, offset: f"{moment:%Y-%m-%d}{mark}{moment:%H:%M:%S}{decimals}{offset}",
    st.datetimes(datetime(1900, 1, 1), datetime(2100, 1, 1)),
    st.sampled_from(["T", " ", "x"]),
    st.sampled_from(["", ".5", ".123456789", ".", ",25", ".1234567891"]),
    st.sampled_from(["", "Z", "z", "+05:30", "-0800", "+99:00", "Zulu"]),
)
blemishes = st.tuples(st.integers(0, 34), st.sampled_from("0159-:. TZ\0é"))


def blemished(text: str, blemish: tuple[int, str]) -> str:
    at, mark = blemish
    return text[:at] + mark + text[at + 1 :]


@settings(max_examples=400)
@given(
    st.lists(st.one_of(texts, st.builds(blemished, texts, blemishes), st.integers(), st.none()), max_size=8)
)
def test_a_column_is_read_as_its_values_are_one_by_one(values: list[Any]) -> None:
    assert parse_timestamps(values, YORK).tolist() == [parse_timestamp(value, YORK) for value in values]


@pytest.mark.parametrize(
    "text",
    [
        "24:00:00",
        "12:60:00",
        "12:00:60",
        "12:00:00+24:00",
        "12:00:00+12:60",
        "12:00:00.",
        "12:00:00.Z",
        "1::00:00",
    ],
)
def test_a_clock_that_does_not_exist_is_no_time(text: str) -> None:
    values = [f"2018-01-03 {text}", "2018-01-03 12:00:00"]

    assert (parse_timestamps(values, YORK) == NOT_A_TIME).tolist() == [True, False]
    assert parse_timestamp(values[0], YORK) == NOT_A_TIME


@settings(max_examples=200)
@given(texts)
def test_a_text_is_read_as_the_standard_library_reads_it(text: str) -> None:
    found = parse_timestamp(text, zone("UTC"))

    if found != NOT_A_TIME:
        moment = datetime.fromisoformat(text.upper())
        moment = moment if moment.tzinfo else moment.replace(tzinfo=UTC)
        assert found == (moment - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(milliseconds=1)
    else:
        assert any(
            wrong in text for wrong in ("x", ".1234567891", "+99", "Zulu", ".Z", ".z", ".+", ".-")
        ) or (text.endswith("."))


@settings(max_examples=200)
@given(
    st.integers(-2_200_000_000, 4_100_000_000),
    st.sampled_from(["America/New_York", "Africa/Casablanca", "Africa/Freetown", "Australia/Lord_Howe"]),
    st.sampled_from(["hour", "weekday", "month"]),
)
def test_one_instant_is_shown_as_in_a_column(second: int, name: str, function: CalendarFunction) -> None:
    where, at = zone(name), second * 1000

    assert where.calendar_at(function, at) == where.calendar(function, np.array([at]))[0]
    assert where.instant(at) == where.to_utc(np.array([at]))[0]
    shown = datetime.fromtimestamp(second, ZoneInfo(name))
    assert where.calendar_at("hour", at) == shown.hour


def test_an_offset_that_held_for_four_days_is_known() -> None:
    day = datetime(1939, 8, 31, 12, tzinfo=UTC)

    for days in range(8):
        at = day + timedelta(days=days)
        shown = at.astimezone(ZoneInfo("Africa/Freetown"))
        local = zone("Africa/Freetown").to_local(np.array([int(at.timestamp()) * 1000]))[0]
        assert local == int(shown.replace(tzinfo=UTC).timestamp()) * 1000


def test_of_two_instants_that_a_clock_shows_the_earlier_is_meant_and_a_skipped_hour_counts_on() -> None:
    twice, skipped = parse_timestamps(["2018-11-04 01:30:00", "2018-03-11 02:30:00"], YORK).tolist()

    assert twice == parse_timestamp("2018-11-04T01:30:00-04:00", YORK)
    assert skipped == parse_timestamp("2018-03-11T02:30:00-05:00", YORK)
