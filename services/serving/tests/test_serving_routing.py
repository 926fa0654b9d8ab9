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
