"""Schedules as cron writes them, in UTC, read in event time: no clock is asked."""

from collections.abc import Iterator
from datetime import UTC, datetime

from cronsim import CronSim, CronSimError

_ANY = datetime(2000, 1, 1, tzinfo=UTC)


def checked_schedule(text: str) -> str:
    """Return `text` if it is a schedule: five fields of cron, at most once an hour.

    Raises:
        ValueError: it is none.
    """
    wrong = "write minute, hour, day of month, month and day of week as cron has them, like '0 3 1 * *'"
    if len(text.split()) != 5:
        raise ValueError(f"{text!r} is no schedule: {wrong}")
    try:
        cron = CronSim(text, _ANY)
        next(cron)
    except CronSimError as error:
        raise ValueError(f"{text!r} is no schedule ({error}): {wrong}") from error
    except StopIteration:
        raise ValueError(f"{text!r} names no day that there is: {wrong}") from None
    if len(cron.minutes) > 1:
        raise ValueError(f"{text!r} comes more than once an hour: name one minute, like '0 * * * *'")
    return text


def instants(schedule: str, after_ms: int, until_ms: int) -> Iterator[int]:
    """Yield the instants of a schedule in (after, until], in order."""
    for moment in CronSim(schedule, datetime.fromtimestamp(after_ms / 1000, UTC)):
        at_ms = round(moment.timestamp() * 1000)
        if at_ms > until_ms:
            return
        yield at_ms
