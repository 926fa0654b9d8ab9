"""What serving reports and the judge says moves a rollout, and nothing else does."""

import asyncio
from contextlib import suppress

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from trimtab_contracts.registry.v1.registry_pb2 import VersionEvent
from trimtab_registry.errors import NotNow, Unsigned
from trimtab_registry.testing import Harness
from trimtab_registry.testing.harness import LEASE_MS
from trimtab_registry.usecases.entities import Stage
from trimtab_registry.usecases.rollouts import Phase


@pytest.fixture
async def registry() -> Harness:
    """A registry with champion 1 and challenger 2, which serving has yet to load."""
    harness = Harness()
    await harness.apply()
    await harness.consider("first")
    await harness.serve()
    await harness.consider("second", champion=1)
    return harness


async def phase(registry: Harness) -> Phase | None:
    rollout = (await registry.standing()).rollout
    return rollout.phase if rollout else None


async def test_a_trial_opens_when_every_instance_has_the_challenger_warm(registry: Harness) -> None:
    await registry.report("serving-1", warm=[1], champion=1)
    await registry.report("serving-0", warm=[1, 2], champion=1)
    assert await phase(registry) is Phase.LOADING

    await registry.report("serving-1", warm=[1, 2], champion=1)
    assert await phase(registry) is Phase.ON_TRIAL
    news = registry.events()[-1]
    assert (news.stage, news.number, news.loop_id) == (VersionEvent.ON_TRIAL, 2, "loop-second")


async def test_an_instance_whose_lease_has_ended_is_not_waited_for(registry: Harness) -> None:
    await registry.report("serving-1", warm=[1], champion=1)
    registry.clock.advance(LEASE_MS + 1)
    await registry.report("serving-0", warm=[1, 2], champion=1)

    assert await phase(registry) is Phase.ON_TRIAL


async def test_an_instance_that_said_goodbye_is_not_waited_for(registry: Harness) -> None:
    await registry.report("serving-1", warm=[1], champion=1)
    registry.fleet.forget("minutes", "serving-1")
    await registry.report("serving-0", warm=[1, 2], champion=1)

    assert await phase(registry) is Phase.ON_TRIAL


async def test_with_no_instance_nothing_opens(registry: Harness) -> None:
    registry.clock.advance(LEASE_MS + 1)
    await registry.trials.observe("minutes")

    assert await phase(registry) is Phase.LOADING


async def test_repeated_heartbeats_tell_nothing_twice(registry: Harness) -> None:
    await registry.serve()
    told = len(registry.memory.outbox)
    for _ in range(3):
        await registry.report(warm=[1, 2], champion=1)

    assert len(registry.memory.outbox) == told


async def test_a_version_that_fails_to_load_is_rolled_back_with_the_instances_sentence(
    registry: Harness,
) -> None:
    await registry.report("serving-0", warm=[1, 2], champion=1)
    await registry.report("serving-1", warm=[1], champion=1, errors={2: "the graph has no output"})

    assert await registry.stages() == [Stage.LIVE, Stage.ROLLED_BACK]
    assert registry.events()[-1].sentence == "serving-1 could not load it: the graph has no output"
    assert not registry.deployments()[-1].HasField("challenger")


async def test_verdicts_lead_a_canary_from_step_to_step_to_champion(registry: Harness) -> None:
    await registry.serve()
    await registry.verdict("ADVANCE")
    assert registry.deployments()[-1].rollout.share == 50
    await registry.verdict("ADVANCE")
    assert registry.deployments()[-1].rollout.share == 100
    await registry.verdict("PROMOTE")

    told = registry.deployments()[-1]
    assert (told.champion.number, told.previous.number) == (2, 1)
    assert not told.HasField("rollout")
    assert [told.generation for told in registry.deployments()] == [1, 2, 3, 4, 5, 6]


@pytest.mark.parametrize("outcome", ["ROLL_BACK", "UNDECIDED"])
async def test_a_challenger_that_does_not_win_leaves_the_champion(registry: Harness, outcome: str) -> None:
    await registry.serve()
    await registry.verdict(outcome)  # type: ignore[arg-type]

    assert await registry.stages() == [Stage.LIVE, Stage.ROLLED_BACK]
    assert (await registry.standing()).champion == 1
    assert registry.events()[-1].sentence == f"the judge says {outcome}"


@pytest.mark.parametrize("other", [{"rollout_id": "minutes/2/1"}, {"step": 1}, {"generation": 1}])
async def test_a_stale_verdict_is_recorded_and_ignored(registry: Harness, other: dict[str, object]) -> None:
    await registry.serve()
    told = registry.deployments()
    await registry.verdict("PROMOTE", **other)

    assert await phase(registry) is Phase.ON_TRIAL
    assert registry.deployments() == told
    entry = registry.audited()[-1]
    assert entry.action == "stale_verdict"
    assert "PROMOTE was ignored" in entry.reason


async def test_a_verdict_before_the_trial_is_stale(registry: Harness) -> None:
    await registry.verdict("PROMOTE")
    assert await phase(registry) is Phase.LOADING


async def test_an_advance_from_the_last_step_is_stale(registry: Harness) -> None:
    await registry.serve()
    for _ in range(3):
        await registry.verdict("ADVANCE")

    assert registry.audited()[-1].action == "stale_verdict"
    assert registry.deployments()[-1].rollout.share == 100


async def test_a_redelivered_verdict_changes_nothing(registry: Harness) -> None:
    await registry.serve()
    verdict = await registry.verdict("ADVANCE")
    told = list(registry.memory.outbox)
    await registry.trials.judge(verdict)

    assert registry.memory.outbox == told


async def test_a_promoted_version_is_live_when_all_instances_answer_with_it(registry: Harness) -> None:
    await registry.serve("serving-0")
    await registry.report("serving-1", warm=[1, 2], champion=1)
    await registry.verdict("PROMOTE")
    await registry.report("serving-0", warm=[1, 2], champion=2)
    assert (await registry.stages())[1] is Stage.ON_TRIAL

    await registry.report("serving-1", warm=[1, 2], champion=2)
    assert await registry.stages() == [Stage.LIVE, Stage.LIVE]
    assert registry.events()[-1].stage == VersionEvent.LIVE


async def test_a_report_of_an_older_generation_makes_nothing_live(registry: Harness) -> None:
    await registry.serve()
    await registry.verdict("PROMOTE")
    await registry.report(warm=[1, 2], champion=2, generation=1)

    assert (await registry.standing()).live == 1


async def test_the_history_says_what_served_at_any_time(registry: Harness) -> None:
    await registry.serve()
    registry.clock.advance(1_000)
    await registry.verdict("PROMOTE")
    await registry.serve()
    registry.clock.advance(1_000)
    await registry.decisions.roll_back("minutes", actor="ann", comment="complaints")
    await registry.serve()

    async def live_at(ms: int) -> list[int]:
        return [version.number for version in await registry.store.versions("minutes", ms)]

    assert [await live_at(ms) for ms in (9_999, 10_000, 10_999, 11_000, 11_999, 12_000)] == [
        [], [1], [1], [2], [2], [1],
    ]  # fmt: skip
    first, second = await registry.store.versions("minutes")
    assert (first.live_from_ms, first.live_to_ms) == (12_000, None)
    assert (second.stage, second.live_from_ms, second.live_to_ms) == (Stage.ROLLED_BACK, 11_000, 12_000)


class TestPeople:
    async def test_a_person_promotes_a_version_on_trial_at_once(self, registry: Harness) -> None:
        await registry.serve()
        standing = await registry.decisions.promote("minutes", 2, actor="ann", comment="")

        assert (standing.champion, standing.previous) == (2, 1)
        assert (registry.audited()[-1].action, registry.audited()[-1].actor) == ("promoted", "ann")

    async def test_a_person_hurries_a_version_that_is_still_loading(self, registry: Harness) -> None:
        standing = await registry.decisions.promote("minutes", 2, actor="ann", comment="")
        assert (standing.champion, standing.challenger) == (1, 2)
        await registry.serve()

        assert (await registry.standing()).live == 2

    async def test_a_person_brings_back_a_refused_version_with_a_reason(self, registry: Harness) -> None:
        await registry.serve()
        await registry.verdict("ROLL_BACK")
        with pytest.raises(Unsigned, match="ROLLED_BACK and no challenger"):
            await registry.decisions.promote("minutes", 2, actor="ann", comment="")
        await registry.decisions.promote("minutes", 2, actor="ann", comment="the judge saw a holiday")
        await registry.serve()

        assert (await registry.standing()).live == 2

    async def test_an_old_failure_to_load_does_not_end_a_new_attempt(self, registry: Harness) -> None:
        await registry.report(errors={2: "out of memory"})
        await registry.decisions.promote("minutes", 2, actor="ann", comment="memory was added")
        await registry.report(errors={2: "out of memory"}, generation=3)
        assert (await registry.standing()).challenger == 2

        await registry.report(errors={2: "out of memory"})
        assert (await registry.standing()).challenger is None

    async def test_the_champion_cannot_be_promoted(self, registry: Harness) -> None:
        with pytest.raises(NotNow, match="is the champion already"):
            await registry.decisions.promote("minutes", 1, actor="ann", comment="again")

    async def test_a_rollback_goes_to_the_champion_before_and_drops_the_challenger(
        self, registry: Harness
    ) -> None:
        await registry.serve()
        await registry.verdict("PROMOTE")
        await registry.serve()
        await registry.consider("third", champion=2)
        await registry.decisions.roll_back("minutes", actor="ann", comment="complaints")

        standing = await registry.standing()
        assert (standing.champion, standing.previous, standing.challenger) == (1, None, None)
        assert await registry.stages() == [Stage.LIVE, Stage.ROLLED_BACK, Stage.ROLLED_BACK]
        with pytest.raises(NotNow, match="no earlier champion"):
            await registry.decisions.roll_back("minutes", actor="ann", comment="more complaints")

    async def test_a_champion_that_is_replaced_before_it_was_live_is_rolled_back(
        self, registry: Harness
    ) -> None:
        await registry.serve()
        await registry.verdict("PROMOTE")
        await registry.consider("third", champion=2)
        await registry.report(warm=[1, 2, 3], champion=1)
        await registry.verdict("PROMOTE")

        assert await registry.stages() == [Stage.LIVE, Stage.ROLLED_BACK, Stage.ON_TRIAL]
        assert "before serving had swapped to it" in registry.events()[-1].sentence

    async def test_a_champion_that_cannot_be_swapped_in_is_taken_back(self, registry: Harness) -> None:
        await registry.serve()
        await registry.verdict("PROMOTE")
        await registry.report("serving-1", warm=[1], champion=1, errors={2: "its file is gone"})

        assert (await registry.standing()).champion == 1
        assert registry.events()[-1].sentence == "serving-1 could not load it: its file is gone"


EVENTS = st.one_of(
    st.tuples(st.just("run"), st.booleans()),
    st.tuples(st.just("serve"), st.sampled_from(["serving-0", "serving-1"])),
    st.tuples(st.just("fail"), st.sampled_from(["serving-0", "serving-1"])),
    st.tuples(st.just("verdict"), st.sampled_from(["ADVANCE", "PROMOTE", "ROLL_BACK", "UNDECIDED"])),
    st.tuples(st.just("stale"), st.sampled_from(["PROMOTE", "ROLL_BACK"])),
    st.tuples(st.just("promote"), st.integers(1, 4)),
    st.tuples(st.just("roll back"), st.none()),
    st.tuples(st.just("wait"), st.integers(1, 2 * LEASE_MS)),
)


async def happen(registry: Harness, event: tuple[str, object], number: int) -> None:
    what, how = event
    standing = await registry.standing()
    match what:
        case "run":
            beside = (standing.champion or 0) if how else 99
            await registry.consider(f"run-{number}", champion=beside)
        case "serve":
            await registry.serve(str(how))
        case "fail":
            wanted = [each for each in (standing.champion, standing.challenger) if each]
            await registry.report(str(how), errors=dict.fromkeys(wanted, "it broke"))
        case "verdict":
            await registry.verdict(how)  # type: ignore[arg-type]
        case "stale":
            await registry.verdict(how, generation=standing.generation - 1)  # type: ignore[arg-type]
        case "promote" if isinstance(how, int) and how <= len(await registry.stages()):
            await registry.decisions.promote("minutes", how, actor="ann", comment="because")
        case "roll back":
            await registry.decisions.roll_back("minutes", actor="ann", comment="because")
        case "wait" if isinstance(how, int):
            registry.clock.advance(how)


async def hold(registry: Harness, had_champion: bool) -> bool:
    """Check what must hold after every event, and return whether there is a champion."""
    standing = await registry.standing()
    versions = await registry.store.versions("minutes")
    assert standing.champion is not None or not had_champion, (
        "a champion never goes without another in its place"
    )
    assert standing.champion not in (standing.challenger, standing.previous) or standing.champion is None
    live = [version.number for version in await registry.store.versions("minutes", registry.clock.now_ms())]
    assert live == ([standing.live] if standing.live else [])
    told = registry.deployments()
    assert [each.generation for each in told] == list(range(1, len(told) + 1))
    if told:
        assert told[-1].generation == standing.generation
        assert told[-1].champion.number == (standing.champion or 0)
        assert told[-1].challenger.number == (standing.challenger or 0)
    on_the_way = [
        v.number
        for v in versions
        if v.stage in (Stage.ACCEPTED, Stage.ON_TRIAL) and v.number != standing.champion
    ]
    assert on_the_way == ([standing.challenger] if standing.challenger else [])
    return standing.champion is not None


FIRST = [("run", True), ("serve", "serving-0")]
BEGINNINGS: list[list[tuple[str, object]]] = [[], [*FIRST], [*FIRST, *FIRST, ("verdict", "PROMOTE")]]


@settings(max_examples=60)
@given(st.sampled_from(BEGINNINGS), st.lists(EVENTS, max_size=20))
def test_whatever_happens_in_whatever_order_there_is_one_champion_and_the_news_agree(
    beginning: list[tuple[str, object]], rest: list[tuple[str, object]]
) -> None:
    async def play() -> None:
        registry = Harness()
        await registry.apply(gates=[{"metric": "mae", "versus": "champion", "better_by": -100}])
        had_champion = False
        for number, event in enumerate([*beginning, *rest]):
            with suppress(NotNow, Unsigned):
                await happen(registry, event, number)
            had_champion = await hold(registry, had_champion)

    asyncio.run(play())
