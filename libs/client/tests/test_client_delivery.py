"""What the ledger says of how well models are delivered."""

import pytest
from trimtab.cli.loops import story
from trimtab.delivery import summary
from trimtab_contracts.common.v1.common_pb2 import RunCost
from trimtab_contracts.monitoring.v1.monitoring_pb2 import Decided, Gain, Loop
from trimtab_runtime.clock import to_timestamp

DAY = 86_400_000


def a_loop(
    state: str, *, drift: float | None, settled: float | None = None, work_s: int = 0, model: str = "m"
) -> Loop:
    """Make a loop by the days of its drift and its end."""
    loop = Loop(model=model, state=state, command_id="" if state == "declined" else "c")
    if drift is not None:
        loop.drift_at.CopyFrom(to_timestamp(int(drift * DAY)))
    if settled is not None:
        loop.settled_at.CopyFrom(to_timestamp(int(settled * DAY)))
    loop.steps["triggered"].CopyFrom(to_timestamp(0))
    loop.steps[state].CopyFrom(to_timestamp(work_s * 1_000))
    return loop


def test_a_models_loops_come_to_how_soon_how_often_and_how_much_in_vain() -> None:
    loops = [
        a_loop("live", drift=0, settled=1, work_s=20),
        a_loop("declined", drift=5),
        a_loop("failed", drift=8, settled=8),
        a_loop("refused", drift=9, settled=9),
        a_loop("rolled_back", drift=10, settled=13),
        a_loop("live", drift=14, settled=17, work_s=40),
        a_loop("training", drift=20),
    ]

    [found] = summary(loops)

    assert (found.loops, found.declined, found.commanded, found.live) == (7, 1, 6, 2)
    assert found.live_a_month == 2 * 30 / 20
    assert found.lead_time_ms == 2 * DAY
    assert found.work_ms == 30_000
    assert found.failed_share == 2 / 5
    assert found.rolled_back_share == 1 / 3
    assert found.restored_ms == 9 * DAY, "counted from the first loop in vain since the last live version"


def test_a_dry_run_is_told_as_one_and_counts_as_no_command() -> None:
    dry = a_loop("dry_run", drift=3)
    dry.command_id = ""
    dry.reason = "Dry run, or a retrain would have been ordered: it moved."

    [found] = summary([a_loop("live", drift=0, settled=1), dry])

    assert (found.loops, found.declined, found.rehearsed, found.commanded) == (2, 0, 1, 1)
    assert story(dry) == ["loop  of m: dry_run", f"  policy    {dry.reason}", *story(dry)[2:]]


def test_what_retrains_cost_and_bought_is_summed_up_where_it_has_one_unit() -> None:
    bought, vain = a_loop("live", drift=0, settled=1), a_loop("failed", drift=2, settled=2)
    bought.cost.CopyFrom(RunCost(wall_seconds=42.5, cpu_seconds=40, rows=12_000, attempts=2))
    bought.gain.CopyFrom(
        Gain(before=1, a_row=0.61, low=0.2, high=1.0, compared=1_204, paired=True, rows=11_000, metric="mae")
    )
    vain.cost.CopyFrom(RunCost(wall_seconds=7.5, attempts=1))

    [found] = summary([bought, vain])

    assert (found.spent_ms, found.metric) == (50_000, "mae")
    assert found.saved == pytest.approx(6_710)
    told = story(bought)
    assert "  cost      42.5 s (40.0 s of computing), fitted to 12,000 rows, in 2 attempts" in told
    assert (
        "  bought    0.61 less mae a row than version 1, 0.2 to 1 (by 1,204 rows that both answered): "
        "saved 6,710 over 11,000 predictions so far"
    ) in told
    other = a_loop("live", drift=0, settled=1, model="b")
    other.gain.CopyFrom(Gain(before=1, a_row=-0.5, compared=90, rows=100, metric="mae"))
    *_, together = summary([bought, other])
    assert (together.saved, together.metric) == (None, ""), "one model's minutes are not another's"
    [line] = [line for line in story(other) if "bought" in line]
    assert line.endswith(
        "0.5 more mae a row than version 1 (by its 90 labelled rows and the last of version 1, which are of another time): "
        "lost 50 over 100 predictions so far"
    )


def test_several_models_are_told_one_by_one_and_together() -> None:
    loops = [
        a_loop("live", drift=0, settled=2, model="b"),
        a_loop("rolled_back", drift=1, settled=3, model="a"),
    ]

    found = summary(loops)

    assert [each.model for each in found] == ["a", "b", "all"]
    assert [each.rolled_back_share for each in found] == [1.0, 0.0, 0.5]
    assert found[2].restored_ms is None, "one model's live version restores no other's"


@pytest.mark.parametrize(("next_live", "lasted"), [(17, 2), (11, 1), (None, 2)])
def test_a_live_version_taken_back_was_delivered_and_failed_until_another_was_live_instead(
    next_live: float | None, lasted: int
) -> None:
    bad = a_loop("rolled_back", drift=8, settled=10, work_s=90)
    bad.steps["live"].CopyFrom(to_timestamp(30_000))
    bad.taken_back_at.CopyFrom(to_timestamp(12 * DAY))
    loops = [a_loop("live", drift=0, settled=1, work_s=20), a_loop("failed", drift=7, settled=7), bad]
    if next_live is not None:
        loops.append(a_loop("live", drift=9, settled=next_live, work_s=40))

    [found] = summary(loops)

    lives = 2 if next_live is None else 3
    assert found.live == lives
    assert found.live_a_month is not None
    assert found.lead_time_ms == (1.5 * DAY if next_live is None else 2 * DAY)
    assert found.work_ms == (25_000 if next_live is None else 30_000), (
        "until it was live, not until it was taken back"
    )
    assert (found.failed_share, found.rolled_back_share) == (1 / (lives + 1), 1 / lives)
    vain = [] if next_live is None else [next_live - 7]
    assert found.restored_ms == sum([lasted, *vain]) / (1 + len(vain)) * DAY


def test_a_loop_tells_each_answer_of_the_policy_where_there_were_several() -> None:
    loop = a_loop("declined", drift=0)
    loop.reason = "The cooldown lasts."
    loop.decisions.append(Decided(at=to_timestamp(0), cause="quality", sentence="The data is faulty."))
    assert "  policy    The cooldown lasts." in story(loop), "one is told as it always was"
    loop.decisions.append(Decided(at=to_timestamp(DAY), cause="cooldown", sentence="The cooldown lasts."))

    assert [line for line in story(loop) if "policy" in line] == [
        "  policy    1970-01-01T00:00  quality: The data is faulty.",
        "  policy    1970-01-02T00:00  cooldown: The cooldown lasts.",
    ]


@pytest.mark.parametrize("loops", [[], [a_loop("training", drift=None)]])
def test_where_nothing_has_come_to_an_end_nothing_is_claimed(loops: list[Loop]) -> None:
    for found in summary(loops):
        assert {found.lead_time_ms, found.work_ms, found.failed_share, found.rolled_back_share} == {None}
        assert {found.restored_ms, found.live_a_month} == {None}
