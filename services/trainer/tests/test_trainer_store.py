"""One suite for both homes of jobs: what a queue held by lease promises."""

import uuid
from collections.abc import AsyncIterator

import pytest
from trimtab_contracts.training.v1.training_pb2 import RunEvent
from trimtab_runtime.postgres import open_pool
from trimtab_trainer.store import PostgresStore
from trimtab_trainer.testing import MemoryStore
from trimtab_trainer.usecases import Job, News, Status, Store

LEASE_MS = 10_000


@pytest.fixture(params=["memory", pytest.param("postgres", marks=pytest.mark.real)])
async def store(request: pytest.FixtureRequest) -> AsyncIterator[Store]:
    if request.param == "memory":
        yield MemoryStore()
        return
    dsn, schema = request.getfixturevalue("postgres_dsn"), f"trainer_{uuid.uuid4().hex[:8]}"
    async with open_pool(dsn, schema, package="trimtab_trainer") as pool:
        yield PostgresStore(pool)


def queued(name: str, *, model: str = "m", at_ms: int = 1_000) -> News:
    job = Job(
        f"run-{name}", f"command-{name}", model, f"loop-{name}", "data", 5_000, None, queued_at_ms=at_ms
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
    assert not await store.renew(job, "dead", until_ms=99_000)
    assert not await store.record(News(job, Status.FAILED, 20_000, error="too late"), "dead")
    assert await store.record(News(taken, Status.FAILED, 21_000, error="mine"), heir)


async def test_a_renewed_lease_keeps_the_job(store: Store) -> None:
    await store.add(queued("a"))
    job = await store.claim("me", now_ms=3_000, lease_ms=LEASE_MS)
    assert job

    assert await store.renew(job, "me", until_ms=30_000)
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
