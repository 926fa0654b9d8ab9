"""Drift scores are distances in [0, 1] that know no unit and survive JSON."""

from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from trimtab_core import drift
from trimtab_core.drift import Kind, Null, Reference, against_like, against_rest, by_block, fit_reference

RNG = np.random.default_rng(7)
NUMBERS = arrays(
    np.float64, st.integers(1, 60), elements=st.floats(allow_nan=True, allow_infinity=True, width=64)
)


def fitted(values: Any, kind: Kind = "numeric") -> Reference:
    return fit_reference({"x": np.asarray(values)}, {"x": kind})["x"]


def score(profile: Reference, values: Any) -> float:
    return drift.score(profile, profile.bins(values))


@settings(max_examples=80)
@given(NUMBERS, NUMBERS)
def test_a_numeric_score_is_a_distance(reference: Any, window: Any) -> None:
    profile = fitted(reference)

    assert 0 <= score(profile, window) <= 1
    assert score(profile, reference) == pytest.approx(0, abs=1e-6)
    assert sum(profile.shares) == pytest.approx(1)
    assert msgspec.json.decode(msgspec.json.encode(profile), type=Reference) == profile


@given(
    st.lists(st.sampled_from(["a", "b", 3, 3.5, None, True]), min_size=1),
    st.lists(st.sampled_from(["b", "c", None]), min_size=1),
)
def test_a_categorical_score_is_a_distance(reference: list[Any], window: list[Any]) -> None:
    was, now = np.array(reference, dtype=object), np.array(window, dtype=object)
    profile = fitted(was, "categorical")

    assert 0 <= score(profile, now) <= 1
    assert score(profile, was) == pytest.approx(0, abs=1e-7)
    assert msgspec.json.decode(msgspec.json.encode(profile), type=Reference) == profile


@pytest.mark.parametrize("sigmas", [0.25, 0.5, 1.0])
def test_a_gaussian_shift_scores_half_of_what_it_is_in_sigmas(sigmas: float) -> None:
    profile = fitted(RNG.normal(size=50_000))
    expected = {0.25: 0.139, 0.5: 0.273, 1.0: 0.512}[sigmas]

    assert score(profile, RNG.normal(sigmas, size=50_000)) == pytest.approx(expected, abs=0.01)


def test_the_score_knows_no_unit_and_bends_to_no_outlier() -> None:
    was, now = RNG.lognormal(size=5_000), RNG.lognormal(0.3, size=500)
    wild = np.append(now, [1e300, -1e300])

    assert score(fitted(np.log(was)), np.log(now)) == pytest.approx(score(fitted(was), now))
    assert score(fitted(was), wild) == pytest.approx(score(fitted(was), now), abs=0.01)


def test_a_wider_spread_and_a_few_rows_far_out_are_seen_in_a_window_of_a_hundred() -> None:
    rng = np.random.default_rng(3)
    profile = fitted(rng.normal(size=10_000))
    quiet = np.quantile([score(profile, rng.normal(size=100)) for _ in range(1_000)], 0.99)

    wider = [score(profile, 1.5 * rng.normal(size=100)) for _ in range(200)]
    far = [score(profile, np.append(rng.normal(size=90), rng.normal(6, size=10))) for _ in range(200)]

    assert np.mean(wider > quiet) > 0.6
    assert np.mean(far > quiet) > 0.9


def test_a_two_valued_number_scores_about_its_change_of_share_whichever_value_is_common() -> None:
    for share in (0.1, 0.9 - 0.05, 0.5):
        profile = fitted((np.arange(1_000) < round(share * 1_000)).astype(float))
        window = (np.arange(500) < round((share + 0.05) * 500)).astype(float)
        assert score(profile, window) == pytest.approx(0.06, abs=0.011)


@pytest.mark.parametrize("rows", [50, 100, 500])
def test_a_value_that_was_never_seen_is_no_move_in_a_single_row(rows: int) -> None:
    constant, one = fitted(np.zeros(10_000)), np.arange(rows) == 0

    assert score(constant, one.astype(float)) < 3 / rows
    assert score(constant, np.where(one, np.inf, 0.0)) < 3 / rows


def test_missing_values_are_a_change_of_their_own() -> None:
    profile = fitted(RNG.normal(size=5_000))
    window = RNG.normal(size=1_000)
    window[:300] = np.nan

    of_two = fitted(np.array(["there"] * 5_000), "categorical")
    assert score(profile, window) == pytest.approx(
        score(of_two, np.array([""] * 300 + ["there"] * 700)), abs=0.02
    )
    assert score(fitted([np.nan, np.nan]), np.array([1.0, 2.0])) == 1


def test_a_constant_column_that_moves_moves_all_the_way() -> None:
    profile = fitted(np.full(100, 5.0))

    assert [score(profile, np.full(10, value)) for value in (4.0, 5.0, 7.0)] == pytest.approx([1, 0, 1])


def test_an_integer_that_became_a_float_is_the_same_category() -> None:
    profile = fitted(np.array([1, 2, 2, 3]), "categorical")

    assert score(profile, np.array([1.0, 2.0, 2.0, 3.0])) == 0
    assert score(profile, np.array([1.0, np.nan, 2.0, 3.0])) > 0.3


def test_a_new_category_is_seen_among_hundreds_of_others_and_a_profile_stays_small() -> None:
    rng = np.random.default_rng(5)
    many = rng.geometric(0.01, 20_000)
    profile, window = fitted(many, "categorical"), rng.geometric(0.01, 500)
    new = np.where(rng.random(500) < 0.1, -1, window)
    rare = np.where(rng.random(500) < 0.1, rng.choice(np.unique(many)[150:], 500), window)

    assert len(profile.categories) > drift.MOST_CATEGORIES
    assert score(profile, new) > 1.5 * score(profile, window)
    assert score(profile, rare) < 1.5 * score(profile, window)
    ids = fitted(rng.integers(0, 5_000, 20_000), "categorical")
    assert len(ids.shares) == drift.MOST_KNOWN + 2
    assert score(ids, np.arange(5_000, 5_500)) < 1.2 * score(ids, rng.integers(0, 5_000, 500))


def test_a_simulated_window_finds_new_what_it_alone_holds_as_a_live_one_does() -> None:
    rng = np.random.default_rng(6)
    values = rng.permutation(np.append(rng.integers(0, 150, 3_000), np.arange(1_000, 1_200)))
    profile = fitted(values, "categorical")
    bins = profile.bins(values)
    blocks = np.arange(16)[:, None] * 2 + np.arange(2)
    played = against_rest(profile, by_block(profile, bins, 100), blocks)

    for at, window in enumerate(blocks):
        rows = (window[:, None] * 100 + np.arange(100)).ravel()
        assert score(fitted(np.delete(values, rows), "categorical"), values[rows]) == pytest.approx(
            played[at], abs=0.03
        )


def test_few_categories_have_a_profile_of_a_bin_each() -> None:
    assert (
        score(fitted(np.array(["a", "b"] * 50), "categorical"), np.array(["a", "b"] * 45 + ["c"] * 10)) > 0.15
    )
    assert len(fitted(RNG.normal(size=20_000)).edges) == 64


def test_nothing_is_scored_from_nothing() -> None:
    with pytest.raises(ValueError, match="no reference rows"):
        fit_reference({}, {"x": "numeric"})
    with pytest.raises(ValueError, match="no rows"):
        score(fitted([1.0]), np.array([]))


TALK = np.array(
    ["the", "a", "of", "taxi", "driver", "late", "rude", "fare", "price", "card", "app", "wait", "rain"],
    object,
)


def texts(rows: int, *, about: str = "", share: float = 0.0, seed: int = 1) -> Any:
    """Return texts of five common words, a `share` of which ends with `about`."""
    rng = np.random.default_rng(seed)
    weights = 1 / np.arange(1, len(TALK) + 1)
    words = rng.choice(TALK, (rows, 5), p=weights / weights.sum())
    ends = np.where(rng.random(rows) < share, about, "")
    return np.array([f"{' '.join(row)}. {end}" for row, end in zip(words, ends, strict=True)], object)


@given(st.lists(st.text(max_size=20), min_size=1), st.lists(st.none() | st.text(max_size=20), min_size=1))
def test_a_score_of_texts_is_a_distance(reference: list[str], window: list[str | None]) -> None:
    was, now = np.array(reference, object), np.array(window, object)
    profile = fitted(was, "text")

    assert 0 <= score(profile, now) <= 1
    assert score(profile, was) == pytest.approx(0, abs=1e-3)
    assert sum(profile.shares) == pytest.approx(1, abs=1e-5)
    assert msgspec.json.decode(msgspec.json.encode(profile), type=Reference) == profile


def test_a_new_subject_another_word_for_it_a_new_language_and_silence_move_texts_and_their_order_and_length_do_not() -> (
    None
):
    profile, usual = fitted(texts(5_000), "text"), score(fitted(texts(5_000), "text"), texts(1_000, seed=2))
    backwards = np.array([" ".join(each.split()[::-1]) for each in texts(1_000, seed=2)], object)
    doubled = np.array([each + each for each in texts(1_000, seed=2)], object)
    renamed = np.array([each.replace("fare", "price") for each in texts(1_000, seed=2)], object)

    assert usual < 0.05
    assert score(profile, texts(1_000, about="refund", share=0.3, seed=2)) > 3 * usual
    assert score(profile, renamed) > 3 * usual
    assert score(profile, np.full(1_000, "der Fahrer kam zu spät", object)) > 0.9
    assert score(profile, np.append(texts(500, seed=2), np.full(500, "", object))) > 0.4
    assert score(profile, backwards) == pytest.approx(usual, abs=1e-6)
    assert score(profile, doubled) == pytest.approx(usual, abs=1e-6)


@pytest.mark.parametrize("kind", ["numeric", "categorical", "text"])
def test_many_windows_score_as_each_would_against_the_other_rows(kind: Kind) -> None:
    values = texts(300) if kind == "text" else RNG.integers(0, 9, 300).astype(np.float64)
    profile = fitted(values, kind)
    bins, blocks = profile.bins(values), np.array([[3, 9], [7, 2]])
    rows = (blocks[..., None] * 25 + np.arange(25)).reshape(2, 50)
    others = tuple(profile.shares_of(profile.bins(np.delete(values, rows[1]))))
    alone = score(Reference(kind, 250, others, profile.edges, profile.categories), values[rows[1]])

    assert against_rest(profile, by_block(profile, bins, 25), blocks)[1] == pytest.approx(alone)
    assert against_like(profile, bins, np.zeros(300, np.int64), rows)[1] == pytest.approx(alone)


def test_p_falls_with_the_score_and_goes_on_beyond_what_was_simulated() -> None:
    null = Null.of(RNG.exponential(size=20_000), 1e-3)
    p = null.p(np.linspace(0, 20, 200))

    assert (np.diff(p) <= 0).all()
    assert null.p(np.log(100)) == pytest.approx(0.01, rel=0.2)
    assert 0 < p[-1] < 1e-7
    assert Null.of(np.zeros(100), 1e-3).p(0.0) == 1
