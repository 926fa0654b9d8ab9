"""The table of a rollout's moves is the whole of it, and no order of events breaks what it promises."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from trimtab_registry.usecases.rollouts import MOVES, IllegalMove, Move, Phase, Standing, Strategy


def begun(standing: Standing, challenger: int, strategy: Strategy = "canary") -> Standing:
    return standing.begin(
        challenger,
        strategy,
        (10, 50),
        opened_at_ms=7,
        loop_id=f"loop-{challenger}",
        traceparent=None,
        at_ms=9,
    )


def with_champion() -> Standing:
    return begun(Standing("m"), 1).move(Move.WARM, 1).confirm()


def test_the_first_version_serves_as_soon_as_it_is_warm() -> None:
    loading = begun(Standing("m"), 1)

    assert loading.trial is not None
    assert (loading.trial.phase, loading.trial.strategy, loading.trial.share) == (
        Phase.LOADING_TO_SERVE, "immediate", 0,
    )  # fmt: skip
    serving = loading.move(Move.WARM, 2)
    assert (serving.champion, serving.previous, serving.challenger, serving.live) == (1, None, None, None)
    assert serving.confirm().live == 1


def test_a_canary_goes_step_by_step_and_its_champion_stays_until_it_is_promoted() -> None:
    trial = begun(with_champion(), 2).move(Move.WARM, 3)
    assert trial.trial is not None
    assert (trial.trial.phase, trial.trial.share, trial.generation) == (Phase.ON_TRIAL, 10, 3)

    advanced = trial.move(Move.ADVANCE, 4)
    assert advanced.trial is not None
    assert (advanced.trial.share, advanced.champion, advanced.generation) == (50, 1, 4)

    promoted = advanced.move(Move.PROMOTE, 5)
    assert (promoted.champion, promoted.previous, promoted.trial, promoted.generation) == (2, 1, None, 5)


def test_a_shadow_answers_nobody() -> None:
    trial = begun(with_champion(), 2, "shadow").trial
    assert trial is not None
    assert (trial.steps, trial.share) == ((0,), 0)


def test_the_last_step_cannot_be_advanced() -> None:
    last = begun(with_champion(), 2).move(Move.WARM, 3).move(Move.ADVANCE, 4)
    with pytest.raises(IllegalMove, match="last"):
        last.move(Move.ADVANCE, 5)


def test_a_dropped_challenger_leaves_the_champion() -> None:
    dropped = begun(with_champion(), 2).move(Move.DROP, 3)
    assert (dropped.champion, dropped.challenger) == (1, None)
    with pytest.raises(IllegalMove):
        dropped.move(Move.PROMOTE, 4)


def test_a_rollback_restores_the_champion_before_once() -> None:
    promoted = begun(with_champion(), 2).move(Move.WARM, 3).move(Move.PROMOTE, 4)
    restored = promoted.restore(5)
    assert (restored.champion, restored.previous) == (1, None)
    with pytest.raises(IllegalMove):
        restored.restore(6)


def test_a_verdict_must_name_rollout_step_and_generation() -> None:
    standing = begun(with_champion(), 2)
    assert standing.trial is not None
    place = (standing.trial.id, 0, standing.generation)
    assert not standing.is_at(*place), "nothing is judged before it is warm"
    standing = standing.move(Move.WARM, 3)
    assert standing.is_at(*place)
    assert not standing.is_at("m/9/9", *place[1:])
    assert not standing.move(Move.ADVANCE, 4).is_at(*place)


@pytest.mark.parametrize("phase", [Phase.PROMOTED, Phase.DROPPED])
def test_nothing_follows_an_end(phase: Phase) -> None:
    assert not any(start is phase for start, _ in MOVES)


@pytest.mark.parametrize("phase", [phase for phase in Phase if phase not in (Phase.PROMOTED, Phase.DROPPED)])
def test_every_open_rollout_can_be_dropped(phase: Phase) -> None:
    assert MOVES[phase, Move.DROP] is Phase.DROPPED


EVENTS = st.one_of(
    st.sampled_from([*Move]),
    st.sampled_from(["restore", "confirm"]),
    st.tuples(st.integers(1, 5), st.sampled_from(["immediate", "shadow", "canary"])),
)


@given(st.lists(EVENTS, max_size=60))
def test_in_any_order_of_events_there_is_one_champion_once_there_was_one(events: list[object]) -> None:
    standing = Standing("m")
    for event in events:
        before = standing
        try:
            match event:
                case Move():
                    standing = standing.move(event, 1)
                case "restore":
                    standing = standing.restore(1)
                case "confirm":
                    standing = standing.confirm()
                case (int(challenger), strategy):
                    standing = begun(standing, challenger, strategy)  # type: ignore[arg-type]
        except IllegalMove:
            assert standing is before
        assert before.champion is None or standing.champion is not None
        assert standing.champion is None or standing.champion not in (standing.challenger, standing.previous)
        told = (
            standing.champion,
            standing.challenger,
            standing.previous,
            standing.trial and standing.trial.share,
        )
        had = (before.champion, before.challenger, before.previous, before.trial and before.trial.share)
        assert standing.generation == before.generation + (1 if told != had else 0) or (
            event is Move.HURRY and standing.generation == before.generation + 1
        ), "what others are told has a generation of its own"
        if standing.trial is not None:
            assert standing.trial.generation <= standing.generation
            assert 0 <= standing.trial.step < max(1, len(standing.trial.steps))
