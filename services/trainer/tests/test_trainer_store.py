"""One suite for both homes of jobs: what a queue held by lease promises."""

import asyncio
import uuid
from collections.abc import AsyncIterator
from dataclasses import replace

import pytest
from trimtab_contracts.training.v1.training_pb2 import RunEvent
from trimtab_runtime.postgres import open_pool
from trimtab_trainer.errors import RunEnded, UnknownRun
from trimtab_trainer.store import PostgresStore
from trimtab_trainer.testing import MemoryStore
from trimtab_trainer.usecases.entities import (
    Compared,
    Job,
    News,
    Note,
    Part,
    Registered,
    Reproduction,
    Status,
    StoredFile,
)
from trimtab_trainer.usecases.ports import Store
from trimtab_training.progress import Progress, Stage
from trimtab_training.trials import Outcome, Trial

LEASE_MS = 10_000


@pytest.fixture(params=["memory", pytest.param("postgres", marks=pytest.mark.real)])
async def store(request: pytest.FixtureRequest) -> AsyncIterator[Store]:
    if request.param == "memory":
        yield MemoryStore()
        return
    dsn, schema = request.getfixturevalue("postgres_dsn"), f"trainer_{uuid.uuid4().hex[:8]}"
    async with open_pool(dsn, schema, package="trimtab_trainer") as pool:
        yield PostgresStore(pool)


HOUR = 3_600_000
HALF = Progress(Stage.FITTING, 4, 7, 50, 100)


def queued(name: str, *, model: str = "m", at_ms: int = 1_000, trigger: str = "data") -> News:
    job = Job(
        f"run-{name}", f"command-{name}", model, f"loop-{name}", trigger, 5_000, None, queued_at_ms=at_ms
    )
    return News(job, Status.QUEUED, at_ms)


async def test_a_command_has_one_job(store: Store) -> None:
    assert await store.add(queued("a"))
    assert not await store.add(queued("a"))

    assert len(await store.list("m", 10)) == 1


async def test_the_oldest_job_is_claimed_first(store: Store) -> None:
    await store.add(queued("old", model="x", at_ms=1_000))
    await store.add(queued("new", model="y", at_ms=2_000))

    first = await store.claim("me", now_ms=3_000, lease_ms=LEASE_MS)
    second = await store.claim("you", now_ms=3_000, lease_ms=LEASE_MS)

    assert (first and first.run_id, second and second.run_id) == ("run-old", "run-new")


async def test_a_model_has_one_job_in_flight(store: Store) -> None:
    await store.add(queued("a"))
    await store.add(queued("b", at_ms=2_000))

    assert await store.claim("me", now_ms=3_000, lease_ms=LEASE_MS)
    assert await store.claim("you", now_ms=3_000, lease_ms=LEASE_MS) is None


@pytest.mark.parametrize("heir", ["alive", "dead"], ids=["another trainer", "another worker of the same"])
async def test_a_lapsed_lease_passes_the_job_on_and_silences_its_old_owner(store: Store, heir: str) -> None:
    await store.add(queued("a"))
    job = await store.claim("dead", now_ms=3_000, lease_ms=LEASE_MS)
    assert job

    taken = await store.claim(heir, now_ms=3_000 + LEASE_MS + 1, lease_ms=LEASE_MS)

    assert taken and (taken.run_id, taken.attempts) == ("run-a", 2)
    assert not await store.renew(job, "dead", until_ms=99_000, progress=HALF)
    assert not await store.record(News(job, Status.FAILED, 20_000, error="too late"), "dead")
    assert await store.record(News(taken, Status.FAILED, 21_000, error="mine"), heir)


async def test_a_renewed_lease_keeps_the_job(store: Store) -> None:
    await store.add(queued("a"))
    job = await store.claim("me", now_ms=3_000, lease_ms=LEASE_MS)
    assert job

    assert await store.renew(job, "me", until_ms=30_000, progress=HALF)
    assert await store.claim("you", now_ms=20_000, lease_ms=LEASE_MS) is None


async def test_what_became_of_a_job_is_kept_and_lets_the_next_one_start(store: Store) -> None:
    await store.add(queued("a"))
    await store.add(queued("b", at_ms=2_000))
    job = await store.claim("me", now_ms=3_000, lease_ms=LEASE_MS)
    assert job

    assert await store.record(News(job, Status.FAILED, 4_000, error="no rows"), "me")

    told = await store.get("run-a")
    assert told and RunEvent.FromString(told.message).error == "no rows"
    assert told.job.finished_at_ms == 4_000
    following = await store.claim("me", now_ms=5_000, lease_ms=LEASE_MS)
    assert following and following.run_id == "run-b"


async def test_a_person_goes_before_drift_and_drift_before_what_was_due(store: Store) -> None:
    for at, trigger in enumerate(("schedule", "new_rows", "data", "performance", "manual")):
        await store.add(queued(trigger, model=trigger, at_ms=1_000 + at, trigger=trigger))

    taken = [await store.claim("me", now_ms=3_000, lease_ms=LEASE_MS) for _ in range(5)]

    assert [job and job.trigger for job in taken] == ["manual", "data", "performance", "schedule", "new_rows"]


async def test_what_has_waited_long_is_overtaken_no_more(store: Store) -> None:
    await store.add(queued("due", trigger="schedule", model="x", at_ms=0))
    await store.add(queued("asked", trigger="manual", model="y", at_ms=2 * HOUR + 1))

    first = await store.claim("me", now_ms=3 * HOUR, lease_ms=LEASE_MS)

    assert first and first.run_id == "run-due"


async def test_a_queued_job_that_is_cancelled_is_never_claimed_and_holds_nothing_up(store: Store) -> None:
    await store.add(queued("a"))
    await store.add(queued("b", at_ms=2_000))

    told = await store.cancel("run-a", by="ann", reason="no need", now_ms=2_500)

    event = RunEvent.FromString(told.message)
    assert (event.status, event.cancelled_by, event.cancel_reason) == (RunEvent.CANCELLED, "ann", "no need")
    assert told.job.finished_at_ms == 2_500
    taken = await store.claim("me", now_ms=3_000, lease_ms=LEASE_MS)
    assert taken and taken.run_id == "run-b"


async def test_a_running_job_that_is_cancelled_is_taken_from_its_owner_for_good(store: Store) -> None:
    await store.add(queued("a"))
    await store.add(queued("b", at_ms=2_000))
    job = await store.claim("me", now_ms=3_000, lease_ms=LEASE_MS)
    assert job

    await store.cancel("run-a", by="ann", reason="", now_ms=4_000)

    assert not await store.renew(job, "me", until_ms=99_000, progress=HALF)
    assert not await store.record(News(job, Status.SUCCEEDED, 5_000), "me")
    following = await store.claim("you", now_ms=5_000 + LEASE_MS, lease_ms=LEASE_MS)
    assert following and following.run_id == "run-b"


async def test_a_run_that_is_cancelled_twice_was_cancelled_once_and_one_that_ended_cannot_be(
    store: Store,
) -> None:
    await store.add(queued("a"))
    await store.add(queued("b", model="other"))
    first = await store.cancel("run-a", by="ann", reason="x", now_ms=2_000)
    assert await store.cancel("run-a", by="bob", reason="y", now_ms=3_000) == first

    job = await store.claim("me", now_ms=4_000, lease_ms=LEASE_MS)
    assert job and await store.record(News(job, Status.SUCCEEDED, 5_000), "me")
    with pytest.raises(RunEnded, match=r"'run-b' has succeeded .* reject or roll back"):
        await store.cancel("run-b", by="ann", reason="", now_ms=6_000)
    with pytest.raises(UnknownRun):
        await store.cancel("run-c", by="ann", reason="", now_ms=6_000)


async def test_of_a_cancellation_and_a_success_at_once_one_is_the_outcome(store: Store) -> None:
    for at in range(5):
        await store.add(queued(f"{at}", model=f"m{at}"))
        job = await store.claim("me", now_ms=3_000, lease_ms=LEASE_MS)
        assert job
        cancelled, recorded = await asyncio.gather(
            store.cancel(job.run_id, by="ann", reason="", now_ms=4_000),
            store.record(News(job, Status.SUCCEEDED, 4_000), "me"),
            return_exceptions=True,
        )

        told = await store.get(job.run_id)
        assert told
        status = RunEvent.FromString(told.message).status
        assert isinstance(cancelled, RunEnded) is (recorded is True) is (status == RunEvent.SUCCEEDED)


async def test_how_far_a_job_is_belongs_to_its_attempt_and_so_does_its_log(store: Store) -> None:
    await store.add(queued("a"))
    first = await store.claim("dead", now_ms=3_000, lease_ms=LEASE_MS)
    assert first and await store.renew(first, "dead", until_ms=9_000, progress=HALF)
    told = await store.get("run-a")
    assert told and (told.job.attempts, told.progress, told.log) == (1, HALF, None)

    second = await store.claim("heir", now_ms=9_001, lease_ms=LEASE_MS)
    assert second
    await store.keep_log(second, StoredFile("/2", "second", 1))
    await store.keep_log(first, StoredFile("/1", "first", 1))

    told = await store.get("run-a")
    assert told and (told.job.attempts, told.progress, told.log) == (2, None, StoredFile("/2", "second", 1))


def a_trial(number: int, value: float = 2.5) -> Trial:
    parameters = {"alpha": 1e-07, "solver": "svd", "max_iter": 100, "fit_intercept": True}
    return Trial(number, "linear", parameters, "mae", Outcome.PRUNED, (3.5, value), 1.25, 2.5)


async def test_trials_outlive_their_attempt_and_are_given_to_the_next(store: Store) -> None:
    await store.add(queued("a"))
    first = await store.claim("dead", now_ms=3_000, lease_ms=LEASE_MS)
    assert first and await store.resume(first, "dead", of="rows") == []
    failed = Trial(1, "linear", {}, "mae", Outcome.FAILED, (), 0.5, 3.0, error="ValueError: singular")
    await store.keep_trials(first, "dead", [a_trial(0), failed], of="rows")

    second = await store.claim("heir", now_ms=9_001 + LEASE_MS, lease_ms=LEASE_MS)
    assert second
    await store.keep_trials(first, "dead", [a_trial(2)], of="rows")

    assert await store.resume(second, "heir", of="rows") == [a_trial(0), failed]
    await store.keep_trials(second, "heir", [a_trial(2), a_trial(3)], of="rows")
    assert await store.trials("run-a") == [a_trial(0), failed, a_trial(2), a_trial(3)]
    assert await store.trials("run-b") == []


async def test_trials_of_other_rows_or_another_spec_are_forgotten_by_who_holds_the_job(store: Store) -> None:
    await store.add(queued("a"))
    job = await store.claim("me", now_ms=3_000, lease_ms=LEASE_MS)
    assert job
    await store.keep_trials(job, "me", [a_trial(0), a_trial(1)], of="old")

    assert len(await store.resume(job, "you", of="new")) == 2
    await store.keep_trials(job, "me", [a_trial(1, 9.0)], of="new")
    assert await store.resume(job, "me", of="new") == [a_trial(1, 9.0)]


@pytest.mark.parametrize("reference", [None, StoredFile("/r", "d2", 9)])
async def test_the_model_that_a_job_is_to_judge_comes_back_with_it(
    store: Store, reference: StoredFile | None
) -> None:
    part = Part(3, "run-3", 0.6, StoredFile("/p", "d3", 8), ("x",), ("text(y)",), "binary", ("no", "yes"))
    brought = Registered(StoredFile("/m", "d1", 7), reference, 5_000, "m.onnx", (part,))
    news = queued("a", trigger="registered")
    await store.add(replace(news, job=replace(news.job, registered=brought)))

    job = await store.claim("me", now_ms=2_000, lease_ms=LEASE_MS)

    assert job and job.registered == brought


def again(name: str, run: str = "run-a", *, at_ms: int = 1_000) -> News:
    """Return the order to make a run once more."""
    news = queued(name, at_ms=at_ms, trigger="reproduce")
    return replace(news, job=replace(news.job, reproduces=run))


async def test_a_run_that_is_made_again_holds_up_none_of_its_model_and_goes_last(store: Store) -> None:
    await store.add(again("x"))
    await store.add(queued("due", trigger="schedule", at_ms=2_000))
    await store.add(again("y", at_ms=2_000))

    taken = [await store.claim("me", now_ms=3_000, lease_ms=LEASE_MS) for _ in range(3)]

    assert [job and (job.run_id, job.reproduces) for job in taken] == [
        ("run-due", ""),
        ("run-x", "run-a"),
        ("run-y", "run-a"),
    ]


async def test_what_came_of_making_a_run_again_is_kept(store: Store) -> None:
    await store.add(again("x"))
    job = await store.claim("me", now_ms=3_000, lease_ms=LEASE_MS)
    assert job
    compared = Compared("model.onnx", "1", "2", outcome=True)

    await store.record(
        News(job, Status.SUCCEEDED, 4_000, reproduction=Reproduction((compared,), "it differs")), "me"
    )

    told = await store.get("run-x")
    assert told
    found = RunEvent.FromString(told.message).reproduction
    assert (found.identical, found.sentence, found.compared[0].what) == (False, "it differs", "model.onnx")


async def test_the_newest_change_that_an_order_knew_is_known_to_those_after_it(store: Store) -> None:
    for name, as_of_ms, changed_ms in (("a", 5_000, 1_000), ("b", 7_000, 6_000), ("c", 8_000, None)):
        news = queued(name)
        await store.add(replace(news, job=replace(news.job, as_of_ms=as_of_ms, changed_ms=changed_ms)))

    assert await store.last_change("m", 4_000) is None
    assert await store.last_change("m", 6_000) == 1_000
    assert await store.last_change("m", 9_000) == 6_000
    assert await store.last_change("other", 9_000) is None


async def test_notes_stay_in_the_order_in_which_they_were_written_whatever_becomes_of_the_run(
    store: Store,
) -> None:
    await store.add(queued("a"))
    await store.note("run-a", Note("looks 'odd' | 1 < 2", "ann", 1))
    job = await store.claim("me", now_ms=3_000, lease_ms=LEASE_MS)
    assert job and await store.record(News(job, Status.FAILED, 4_000, error="no"), "me")

    told = await store.note("run-a", Note("it was", "bob", 2))

    assert told.notes == (Note("looks 'odd' | 1 < 2", "ann", 1), Note("it was", "bob", 2))
    [listed] = await store.list("m", 10)
    assert listed.notes == told.notes
    with pytest.raises(UnknownRun):
        await store.note("run-b", Note("x", "ann", 1))
