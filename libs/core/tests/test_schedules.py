"""Schedules are cron's, in UTC, and are read in event time."""

import re
from datetime import UTC, datetime

import pytest
from trimtab_core.schedules import checked_schedule, instants
from trimtab_core.specs import RetrainSpec


def at(text: str) -> int:
    return round(datetime.fromisoformat(text).replace(tzinfo=UTC).timestamp() * 1000)


def test_the_instants_of_a_schedule_are_those_after_the_first_time_and_up_to_the_second() -> None:
    first, second = at("2020-03-01T03:00"), at("2020-04-01T03:00")

    assert list(instants("0 3 1 * *", first - 1, second)) == [first, second]
    assert list(instants("0 3 1 * *", first, second)) == [second]
    assert list(instants("0 3 1 * *", first + 1, second - 1)) == []


def test_however_time_is_cut_each_instant_comes_once() -> None:
    begin, hour = at("2020-03-28T00:00"), 3_600_000
    whole = list(instants("30 */5 * * *", begin, begin + 48 * hour))

    cut = [
        instant
        for step in range(0, 48 * 60, 7)
        for instant in instants(
            "30 */5 * * *", begin + step * 60_000, begin + min(step + 7, 48 * 60) * 60_000
        )
    ]

    assert cut == whole and len(whole) == 10


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("monthly", "'monthly' is no schedule: write minute, hour"),
        ("0 0 3 1 * *", "is no schedule"),
        ("0 25 * * *", "is no schedule (Bad hour)"),
        ("0 0 31 2 *", "is no schedule (Bad day-of-month)"),
        ("*/5 * * * *", "comes more than once an hour"),
    ],
)
def test_what_is_no_schedule_is_refused_with_what_to_write(text: str, said: str) -> None:
    with pytest.raises(ValueError, match=re.escape(said)):
        checked_schedule(text)
    with pytest.raises(ValueError, match=re.escape(said)):
        RetrainSpec.model_validate({"schedule": text})
