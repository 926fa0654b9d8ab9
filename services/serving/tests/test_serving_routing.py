from collections import Counter

from hypothesis import given
from hypothesis import strategies as st
from trimtab_serving.routing import Arms


@given(st.text(), st.text(max_size=200))
def test_a_key_keeps_its_arm_for_as_long_as_a_rollout_lasts(key: str, rollout: str) -> None:
    assert Arms(rollout, 30).challenger_answers(key) == Arms(rollout, 30).challenger_answers(key)


@given(st.text(), st.integers(0, 100), st.integers(0, 100))
def test_a_growing_share_only_moves_keys_to_the_challenger(key: str, one: int, other: int) -> None:
    low, high = sorted((one, other))

    assert Arms("r", low).challenger_answers(key) <= Arms("r", high).challenger_answers(key)


def test_the_challenger_answers_its_share_of_the_keys() -> None:
    for share in (1, 10, 50, 99):
        answered = sum(Arms("trip-minutes/7/3", share).challenger_answers(str(key)) for key in range(20_000))

        assert abs(answered / 20_000 - share / 100) < 0.012


def test_another_rollout_splits_the_keys_another_way() -> None:
    both = sum(
        Arms("first", 50).challenger_answers(str(key)) and Arms("second", 50).challenger_answers(str(key))
        for key in range(10_000)
    )

    assert abs(both / 10_000 - 0.25) < 0.03


def test_none_and_all_are_exact() -> None:
    assert not any(Arms("r", 0).challenger_answers(str(key)) for key in range(1000))
    assert all(Arms("r", 100).challenger_answers(str(key)) for key in range(1000))


def test_only_a_canary_gives_the_challenger_answers() -> None:
    assert Arms.of("r", "canary", 40).share == 40
    assert Arms.of("r", "shadow", 40).share == 0
    assert Arms.of("r", "immediate", 40).share == 0


def test_several_versions_answer_their_shares_and_the_champion_the_rest() -> None:
    arms = Arms.of("r", "ab", 70, [(3, 40), (5, 20), (7, 10)])
    found = Counter(arms.version_for(str(key)) for key in range(20_000))

    for version, share in {0: 30, 3: 40, 5: 20, 7: 10}.items():
        assert abs(found[version] / 20_000 - share / 100) < 0.012


@given(st.text())
def test_a_test_of_everybody_leaves_the_champion_nobody(key: str) -> None:
    assert Arms.of("r", "ab", 100, [(3, 60), (5, 40)]).version_for(key) in (3, 5)


def test_an_ab_test_of_one_version_has_a_fixed_share() -> None:
    assert Arms.of("r", "ab", 40) == Arms("r", 40)
