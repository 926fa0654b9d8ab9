"""Files go when nothing has needed them for long, in two steps, and never while anything does."""

import hashlib
from typing import Literal

import pytest
from trimtab_contracts.common.v1.common_pb2 import Artifact
from trimtab_contracts.registry.v1 import registry_pb2 as pb
from trimtab_contracts.registry.v1.registry_pb2 import Candidate
from trimtab_contracts.training.v1.training_pb2 import RunEvent
from trimtab_core.specs import pinned
from trimtab_registry import messages
from trimtab_registry.errors import BadRetention, NotNow
from trimtab_registry.testing import Harness
from trimtab_registry.testing.harness import DAY_MS, HOUR_MS, MODEL
from trimtab_registry.usecases.collecting import Collector, Retention
from trimtab_registry.usecases.entities import StoredFile
from trimtab_runtime.clock import to_timestamp

BY = {"actor": "ann", "comment": ""}
NAMES = ("model", "reference", "evaluation", "evidence")


def stored(content: str) -> Artifact:
    digest = hashlib.sha256(content.encode()).hexdigest()
    return Artifact(uri=f"/data/artifacts/{digest[:2]}/{digest}", digest=digest, size=10)


async def refused(
    registry: Harness, name: str, *, shared: str = "", champion: Artifact | None = None
) -> None:
    """Let a run finish whose version is refused, for it was compared with nobody; its files are its own."""
    evaluation = stored(f"{name} evaluation")
    registry.files[evaluation.uri] = b""
    event = RunEvent(
        id=f"{name}/succeeded",
        run_id=name,
        model=MODEL,
        status=RunEvent.SUCCEEDED,
        as_of=to_timestamp(1_000),
        candidate=Candidate(
            run_id=name,
            model=stored(f"{name} model"),
            reference=stored(shared or f"{name} reference"),
            evaluation=evaluation,
            evidence=stored(f"{name} evidence"),
            champion=pb.VersionRef(model=champion),
            model_generation=1,
        ),
    )
    await registry.candidates.consider(messages.finished_run(event))


@pytest.fixture
async def registry() -> Harness:
    made = Harness()
    await made.apply(gates=[{"metric": "mae", "at_most": 6}])
    await refused(made, "one")
    return made


async def test_files_go_after_the_retention_and_then_a_grace(registry: Harness) -> None:
    assert await registry.collector.sweep() == [], "it is younger than the retention"
    registry.clock.advance(DAY_MS + 1)
    assert await registry.collector.sweep() == []
    version = await registry.store.version(MODEL, 1)
    assert version and version.let_go_ms == registry.clock.now_ms() and not registry.removed

    registry.clock.advance(HOUR_MS)
    [gone] = await registry.collector.sweep()
    assert (gone.version.number, len(gone.files), gone.size, gone.gone) == (1, 4, 40, True)
    assert len(registry.removed) == 4
    entry = registry.audited()[-1]
    assert (entry.action, entry.actor) == ("files_removed", "registry")
    assert entry.reason == "4 files that nothing had needed for 1d were thrown away"
    assert await registry.collector.sweep() == [], "they go once"


async def test_a_version_whose_files_went_says_so_and_is_neither_promoted_nor_named(
    registry: Harness,
) -> None:
    registry.clock.advance(DAY_MS + 1)
    await registry.collector.sweep()
    registry.clock.advance(HOUR_MS)
    await registry.collector.sweep()
    [version] = (await registry.api().ListVersions(pb.ListVersionsRequest(model=MODEL), None)).versions
    assert version.HasField("files_gone")
    with pytest.raises(NotNow, match="the files of version 1 of 'minutes' were thrown away at"):
        await registry.decisions.promote(MODEL, 1, actor="ann", comment="come back")
    with pytest.raises(NotNow, match="were thrown away"):
        await registry.names.alias(MODEL, "stable", 1, **BY)


async def use(registry: Harness, how: str) -> None:
    match how:
        case "alias":
            await registry.names.alias(MODEL, "stable", 1, **BY)
        case "pin":
            await registry.names.tag(MODEL, 1, {"pin": "the court"}, [], **BY)
        case "dataset tag":
            await registry.tags.put("gold", "one", **BY)
        case "promote":
            await registry.decisions.promote(MODEL, 1, actor="ann", comment="it is good enough")


async def drop(registry: Harness, how: str) -> None:
    match how:
        case "alias":
            await registry.names.alias(MODEL, "stable", 0, **BY)
        case "pin":
            await registry.names.tag(MODEL, 1, {}, ["pin"], **BY)
        case "dataset tag":
            await registry.tags.remove("gold", **BY)


@pytest.mark.parametrize("how", ["alias", "pin", "dataset tag", "promote"])
async def test_what_is_in_use_keeps_its_files_also_where_it_was_let_go_before(
    registry: Harness, how: str
) -> None:
    registry.clock.advance(DAY_MS + 1)
    await registry.collector.sweep()
    await use(registry, how)
    registry.clock.advance(10 * DAY_MS)
    assert await registry.collector.sweep() == []
    assert await registry.collector.look() == []
    version = await registry.store.version(MODEL, 1)
    assert version and version.let_go_ms is None and not registry.removed

    if how != "promote":
        await drop(registry, how)
        assert await registry.collector.sweep() == [], "its grace begins anew"
        registry.clock.advance(HOUR_MS)
        assert len(await registry.collector.sweep()) == 1


async def test_what_serves_and_the_one_before_keep_their_files_and_one_that_was_replaced_for_as_long(
    registry: Harness,
) -> None:
    for name in ("two", "three", "four"):
        await registry.consider(name)
        await registry.serve()
        if (await registry.standing()).challenger:
            await registry.verdict("PROMOTE")
            await registry.serve()
        registry.clock.advance(30 * DAY_MS)
    free = [each.version.number for each in await registry.collector.look()]
    assert free == [1, 2], "3 is the champion before, and 4 the champion"


async def test_a_file_that_another_version_or_a_spec_names_stays(registry: Harness) -> None:
    await refused(registry, "two", shared="the same")
    registry.clock.advance(DAY_MS + 1)
    await refused(registry, "three", shared="the same")
    await registry.collector.sweep()
    registry.clock.advance(HOUR_MS)
    await registry.collector.sweep()
    assert stored("two model").digest in registry.removed
    assert stored("the same").digest not in registry.removed


async def test_a_file_that_a_run_stored_again_stays_and_its_version_is_not_called_empty(
    registry: Harness,
) -> None:
    registry.clock.advance(DAY_MS + 1)
    await registry.collector.sweep()
    registry.newer = {stored(f"one {each}").digest for each in NAMES}
    registry.clock.advance(HOUR_MS)
    assert await registry.collector.sweep() == []
    version = await registry.store.version(MODEL, 1)
    assert version and version.files_gone_ms is None


async def test_what_a_version_was_compared_with_and_what_a_spec_pins_stays(registry: Harness) -> None:
    name, digest = "own-1.0-py3-none-any.whl", stored("one reference").digest
    await refused(registry, "two", champion=stored("one model"))
    await registry.apply(trainer={"window": "30d", "kind": "own", "wheel": pinned(name, digest)})
    await registry.names.tag(MODEL, 2, {"pin": "the court"}, [], **BY)
    registry.clock.advance(DAY_MS + 1)
    await registry.collector.sweep()
    registry.clock.advance(HOUR_MS)
    await registry.collector.sweep()
    assert set(registry.removed) == {stored(f"one {each}").digest for each in ("evaluation", "evidence")}


async def test_a_file_that_was_stored_within_the_retention_stays_for_a_job_that_waits_may_name_it(
    registry: Harness,
) -> None:
    registry.clock.advance(DAY_MS - HOUR_MS)
    removed, came_ms = list[str](), {stored("one model").digest: registry.clock.now_ms()}

    async def remove(file: StoredFile, older_than_ms: int) -> Literal["removed", "newer"]:
        if came_ms.get(file.digest, 0) >= older_than_ms:
            return "newer"
        removed.append(file.digest)
        return "removed"

    collector = Collector(registry.store, registry.clock, remove, Retention(DAY_MS, HOUR_MS))
    for _ in range(2):
        registry.clock.advance(2 * HOUR_MS)
        await collector.sweep()
    assert set(removed) == {stored(f"one {each}").digest for each in NAMES if each != "model"}


async def test_a_file_that_lies_where_no_artifact_does_is_not_ours_to_throw_away(registry: Harness) -> None:
    await registry.consider("elsewhere")  # /models/elsewhere
    registry.clock.advance(DAY_MS + 1)
    await registry.collector.sweep()
    registry.clock.advance(HOUR_MS)
    await registry.collector.sweep()
    assert set(registry.removed) == {stored(f"one {each}").digest for each in NAMES}


async def test_to_look_changes_nothing_and_says_what_would_go_when(registry: Harness) -> None:
    registry.clock.advance(DAY_MS + 1)
    answer = await registry.api().CollectArtifacts(pb.CollectArtifactsRequest(dry_run=True), None)
    [files] = answer.files
    assert (files.number, files.files, files.bytes, files.gone, answer.retention) == (1, 4, 40, False, "1d")
    assert files.at == to_timestamp(registry.clock.now_ms() + HOUR_MS)
    version = await registry.store.version(MODEL, 1)
    assert version and version.let_go_ms is None


async def test_without_a_retention_all_files_are_kept_and_a_person_is_told_so(registry: Harness) -> None:
    keeping = Collector(registry.store, registry.clock, registry._remove, Retention())
    with pytest.raises(BadRetention, match="TRIMTAB_REGISTRY_ARTIFACT_RETENTION is not set"):
        await keeping.sweep("ann")
    await keeping.keep_sweeping(3600)  # ends at once


@pytest.mark.parametrize(("keep", "grace"), [("soon", "1d"), ("90d", "a while")])
def test_a_retention_that_is_no_time_is_refused_as_the_registry_starts(keep: str, grace: str) -> None:
    with pytest.raises(BadRetention, match="TRIMTAB_REGISTRY_ARTIFACT_"):
        Retention.parse(keep, grace)
    assert Retention.parse("90d", "1d") == Retention(90 * DAY_MS, DAY_MS)
    assert Retention.parse("", "1d").keep_ms is None
