"""What a version has bought is told by rows that both answered, or else by the last of the one and all of the other."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from trimtab_core.judge import JudgeSpec, JudgeState, update
from trimtab_core.watched import Earning, Paired, Row, Trial
from trimtab_core.worth import Gain, gain, is_due, is_worse, take


def rows(first: int, count: int, *, version: int, generation: int) -> list[Row]:
    return [
        Row(at, f"{at:06}", version, generation, 0, "", 0.0, None, b"", 0.0)
        for at in range(first, first + count)
    ]


def a_trial(rows: int = 200, *, challenger: int = 2) -> Trial:
    spec = JudgeSpec(cap=10.0)
    state = update(spec, JudgeState(), np.full(rows, 3.0), np.full(rows, 2.5))
    return Trial("r", 2, challenger, 0, spec, state)


def lived(
    *parts: tuple[list[Row], float],
    trial: Trial | None = None,
    window: int = 100,
    every_ms: int | None = None,
) -> tuple[Earning, list[Earning]]:
    earning, ended = Earning(), list[Earning]()
    for part, loss in parts:
        earning, more = take(
            earning, part, np.full(len(part), loss), () if trial is None else (trial,), window, every_ms
        )
        ended += more
    return earning, ended


def test_rows_that_both_answered_tell_the_difference_and_predictions_since_multiply_it() -> None:
    found, _ = lived(
        (rows(0, 300, version=1, generation=1), 3.0),
        (rows(300, 900, version=2, generation=4), 1.0),
        trial=a_trial(),
    )

    told = gain(found, "mae")
    assert told is not None
    assert (told.before, told.paired, told.rows) == (1, True, 900)
    assert told.a_row == pytest.approx(0.5), "what both lost, not what the time after was like"
    assert told.low is not None and told.high is not None and told.low <= 0.5 <= told.high


def test_without_such_rows_the_last_of_the_one_are_held_against_the_others() -> None:
    found, ended = lived(
        (rows(0, 1_000, version=1, generation=1), 1.0),
        (rows(1_000, 150, version=1, generation=1), 4.0),
        (rows(1_150, 80, version=2, generation=2), 2.5),
        trial=a_trial(challenger=7),
    )

    assert gain(found, "mae") == Gain(1, 1.5, None, None, 80, False, 80, "mae")
    assert [(each.version, each.rows) for each in ended] == [(1, 1_150)]


def test_a_window_by_time_is_all_of_its_stretch_or_of_as_many_as_have_rows_enough() -> None:
    before = (
        (rows(0, 1_000, version=1, generation=1), 1.0),
        (rows(1_000, 1_500, version=1, generation=1), 4.0),
    )
    since = (rows(2_500, 80, version=2, generation=2), 2.5)
    assert gain(lived(*before, since, window=50, every_ms=1_000)[0], "mae") == Gain(
        1, 1.5, None, None, 80, False, 80, "mae"
    )
    for every_ms in (7, 29):
        found = gain(lived(*before, since, window=50, every_ms=every_ms)[0], "mae")
        assert found is not None and found.a_row == 1.5


@pytest.mark.parametrize(
    "parts",
    [
        [(rows(0, 500, version=1, generation=1), 1.0)],
        [(rows(0, 20, version=1, generation=1), 1.0), (rows(20, 500, version=2, generation=2), 1.0)],
        [(rows(0, 500, version=1, generation=1), 1.0), (rows(500, 20, version=2, generation=2), 1.0)],
        [(rows(0, 500, version=2, generation=1), 1.0), (rows(500, 500, version=1, generation=2), 1.0)],
        [(rows(0, 500, version=1, generation=1), 1.0), (rows(500, 500, version=2, generation=2), np.nan)],
    ],
    ids=["a first version", "few rows before", "few rows since", "a version put back", "no labels"],
)
def test_nothing_is_claimed_of(parts: Any) -> None:
    assert gain(lived(*parts)[0], "mae") is None


def test_what_an_older_version_still_answers_counts_for_neither() -> None:
    late = rows(310, 50, version=1, generation=1)
    found, _ = lived(
        (rows(0, 300, version=1, generation=1), 3.0),
        (rows(300, 10, version=2, generation=2), 2.0),
        (late, 9.0),
        (rows(360, 40, version=2, generation=2), 2.0),
    )

    assert gain(found, "mae") == Gain(1, 1.0, None, None, 50, False, 50, "mae")


@pytest.mark.parametrize("size", [1, 7, 64, 500])
def test_batches_do_not_matter(size: int) -> None:
    story = [*rows(0, 250, version=1, generation=1), *rows(250, 250, version=2, generation=2)]
    losses = np.random.default_rng(3).lognormal(size=500)
    losses[::7] = np.nan
    whole = take(Earning(), story, losses, (), 100)
    earning, ended = Earning(), list[Earning]()
    for start in range(0, 500, size):
        part = slice(start, start + size)
        earning, more = take(earning, story[part], losses[part], (), 100)
        ended += more

    assert (earning, ended) == whole


def test_it_is_told_ever_less_often() -> None:
    times, earning = 0, Earning(2, 2, before=1)
    for rows_so_far in range(10_001):
        earning = replace(earning, rows=rows_so_far)
        if is_due(earning):
            times, earning = times + 1, replace(earning, told=rows_so_far)

    assert 40 < times < 100


@pytest.mark.parametrize(
    ("loss", "labelled", "worse"),
    [(3.0, 99, None), (3.0, 100, True), (1.5, 100, False), (1.5, 5_000, False), (0.5, 100, False)],
)
def test_a_version_is_clearly_worse_when_as_many_rows_as_it_is_held_against_say_so(
    loss: float, labelled: int, worse: bool | None
) -> None:
    found, _ = lived(
        (rows(0, 100, version=1, generation=1), 1.0), (rows(100, labelled, version=2, generation=2), loss)
    )

    assert is_worse(found, 10.0, 0.05) is worse


@pytest.mark.parametrize("a_batch", [1, 150, 2_200])
def test_whether_a_version_is_clearly_worse_does_not_depend_on_batches(a_batch: int) -> None:
    before = rows(0, 100, version=1, generation=1), 1.0
    bad, good = (
        (rows(100, 200, version=2, generation=2), 3.0),
        (rows(300, 2_000, version=2, generation=2), 0.1),
    )
    losses = np.concatenate([np.full(len(part), loss) for part, loss in (bad, good)])
    earning, _ = lived(before)
    for first in range(0, losses.size, a_batch):
        batch = [*bad[0], *good[0]][first : first + a_batch]
        earning, _ = take(earning, batch, losses[first : first + a_batch], (), 500)

    assert is_worse(earning, 10.0, 0.05) is True


def test_what_both_answered_says_at_once_whether_a_version_is_worse() -> None:
    parts = (rows(0, 300, version=1, generation=1), 3.0), (rows(300, 1, version=2, generation=4), 9.0)
    better, _ = lived(*parts, trial=a_trial())
    assert is_worse(better, 10.0, 0.05) is False

    worse = Earning(2, before=1, paired=Paired(200, -0.5, -0.9, -0.1))
    assert is_worse(worse, 10.0, 0.05) is True
    assert is_worse(Earning(2, before=1), 10.0, 0.05) is None


def test_a_version_as_good_is_called_worse_as_seldom_as_is_stated() -> None:
    rng, called = np.random.default_rng(5), 0
    for _ in range(4_000):
        before, since = rng.binomial(200, 0.2, 2).tolist()
        held = Earning(2, before=1, before_mean=before / 200, before_rows=200, even_total=since)
        called += bool(is_worse(held, 1.0, 0.05))
    assert 0.03 < called / 4_000 < 0.065
