"""From a run to a version: gates, approval, staleness, and what a newer candidate does to an undecided one."""

import math

import pyarrow as pa
import pytest
from trimtab_contracts.registry.v1.registry_pb2 import VersionEvent
from trimtab_core.specs import Model, parse
from trimtab_registry.errors import NotNow, UnknownModel, UnknownVersion, Unsigned
from trimtab_registry.testing import Harness, a_run, an_evaluation, documents
from trimtab_registry.usecases import evaluation
from trimtab_registry.usecases.entities import Stage
from trimtab_registry.usecases.rollouts import Phase

AT_MOST = {"metric": "mae", "at_most": 6}
VERSUS = {"metric": "mae", "versus": "champion"}
BETTER = an_evaluation(error=1.0, champion_error=3.0)
WORSE = an_evaluation(error=3.0, champion_error=1.0)


@pytest.fixture
async def registry() -> Harness:
    harness = Harness()
    await harness.apply(gates=[AT_MOST, VERSUS])
    return harness


async def with_champion(registry: Harness) -> None:
    await registry.consider("first")
    await registry.serve()


async def test_a_run_becomes_a_version_with_its_lineage_whole(registry: Harness) -> None:
    await registry.consider("first")

    (version,) = await registry.store.versions("minutes")
    assert (version.number, version.loop_id, version.as_of_ms) == (1, "loop-first", 1_000)
    assert version.candidate.document["features"] == ["distance"]
    assert version.candidate.document["model"] == {"uri": "/models/first", "digest": "first", "size": "3"}
    assert [gate.gate for gate in version.gates] == ["mae at most 6", "mae versus champion"]
    assert 0.5 < version.gates[0].value < 1.5


async def test_the_first_version_is_told_to_load_and_then_serves(registry: Harness) -> None:
    await registry.consider("first")

    (told,) = registry.deployments()
    assert (told.challenger.number, told.HasField("champion"), told.rollout.strategy) == (
        1,
        False,
        "immediate",
    )
    assert (told.challenger.model.digest, list(told.challenger.features)) == ("first", ["distance"])
    assert told.loop_id == "loop-first"
    await registry.serve()
    assert registry.deployments()[-1].champion.number == 1
    assert await registry.stages() == [Stage.LIVE]


async def test_a_redelivered_run_changes_nothing(registry: Harness) -> None:
    await registry.consider("first")
    told = list(registry.memory.outbox)
    await registry.consider("first")

    assert await registry.stages() == [Stage.ACCEPTED]
    assert registry.memory.outbox == told


async def test_a_candidate_that_a_gate_refuses_never_loads_and_the_sentence_says_why(
    registry: Harness,
) -> None:
    await with_champion(registry)
    told = len(registry.deployments())
    await registry.consider("worse", champion=1, content=WORSE)

    assert await registry.stages() == [Stage.LIVE, Stage.REFUSED]
    news = registry.events()[-1]
    assert (news.stage, news.number, news.loop_id) == (VersionEvent.REFUSED, 2, "loop-worse")
    assert [gate.passed for gate in news.gates] == [True, False]
    assert news.gates[1].HasField("low")
    assert news.sentence.startswith("1 of 2 gates refused it: ")
    assert len(registry.deployments()) == told
    assert (await registry.standing()).champion == 1


async def test_an_accepted_candidate_goes_on_trial_by_the_models_rollout(registry: Harness) -> None:
    await with_champion(registry)
    await registry.consider("better", champion=1, content=BETTER)

    told = registry.deployments()[-1]
    assert (told.champion.number, told.challenger.number) == (1, 2)
    assert (told.rollout.strategy, list(told.rollout.steps), told.rollout.share) == (
        "canary",
        [10, 50, 100],
        10,
    )
    assert told.rollout.opened_at.seconds == 1
    assert registry.events()[-1].stage == VersionEvent.ACCEPTED
    assert registry.events()[-1].rollout_id == told.rollout.id


async def test_an_immediate_rollout_serves_once_warm_without_a_trial() -> None:
    registry = Harness()
    await registry.apply(rollout={"strategy": "immediate"})
    await with_champion(registry)
    await registry.consider("second", champion=1)
    await registry.serve()

    assert [event.stage for event in registry.events() if event.number == 2] == [
        VersionEvent.ACCEPTED,
        VersionEvent.LIVE,
    ]
    standing = await registry.standing()
    assert (standing.champion, standing.previous) == (2, 1)


async def test_a_comparison_with_a_champion_that_was_replaced_is_refused(registry: Harness) -> None:
    await with_champion(registry)
    await registry.consider("late", champion=0)

    assert await registry.stages() == [Stage.LIVE, Stage.REFUSED]
    assert "evaluated beside no champion and version 1 is the champion now" in registry.events()[-1].sentence


async def test_a_candidate_that_could_not_be_compared_with_the_champion_is_refused(registry: Harness) -> None:
    await with_champion(registry)
    await registry.consider("blind", champion=1, content=an_evaluation(error=1.0))

    assert await registry.stages() == [Stage.LIVE, Stage.REFUSED]
    assert registry.events()[-1].sentence.startswith(
        "version 1, which is live, could not be evaluated beside it, so mae versus champion says nothing: keep the features"
    )


async def test_without_comparing_gates_a_replaced_champion_matters_not() -> None:
    registry = Harness()
    await registry.apply(gates=[AT_MOST])
    await with_champion(registry)
    await registry.consider("late", champion=0)

    assert await registry.stages() == [Stage.LIVE, Stage.ACCEPTED]


async def test_a_newer_candidate_supersedes_an_undecided_challenger(registry: Harness) -> None:
    await with_champion(registry)
    await registry.consider("second", champion=1, content=BETTER)
    await registry.report(warm=[1, 2], champion=1)
    await registry.consider("third", champion=1, content=BETTER)

    assert await registry.stages() == [Stage.LIVE, Stage.ROLLED_BACK, Stage.ACCEPTED]
    rolled_back = next(event for event in registry.events() if event.stage == VersionEvent.ROLLED_BACK)
    assert (rolled_back.number, rolled_back.loop_id) == (2, "loop-second")
    assert "superseded by version 3" in rolled_back.sentence
    assert (await registry.standing()).challenger == 3


async def test_a_refused_candidate_disturbs_no_trial(registry: Harness) -> None:
    await with_champion(registry)
    await registry.consider("second", champion=1, content=BETTER)
    await registry.report(warm=[1, 2], champion=1)
    await registry.consider("third", champion=1, content=WORSE)

    trial = (await registry.standing()).trial
    assert trial is not None
    assert (trial.challenger, trial.phase) == (2, Phase.ON_TRIAL)


@pytest.mark.parametrize(
    ("content", "said"),
    [(b"rubbish", "cannot be read"), (b"", "cannot be read"), (None, "is not there")],
)
async def test_an_evaluation_that_cannot_be_read_refuses_the_candidate(
    registry: Harness, content: bytes | None, said: str
) -> None:
    if content is None:
        await registry.candidates.consider(a_run("first"))
    else:
        await registry.consider("first", content=content)

    assert await registry.stages() == [Stage.REFUSED]
    assert said in registry.events()[-1].sentence


async def test_a_slice_that_was_not_evaluated_refuses_the_candidate() -> None:
    registry = Harness()
    await registry.apply(gates=[{"metric": "mae", "slices": "distance", "max_worse": 0.1}])
    await registry.consider("first")

    assert await registry.stages() == [Stage.REFUSED]
    assert "distance" in registry.events()[-1].sentence


async def test_a_run_of_an_unknown_model_is_not_found(registry: Harness) -> None:
    with pytest.raises(UnknownModel):
        await registry.candidates.consider(a_run("first", model="nobody"))


class TestApproval:
    @pytest.fixture
    async def registry(self) -> Harness:
        harness = Harness()
        await harness.apply(gates=[VERSUS], rollout={"approval": "manual"})
        await harness.consider("first")
        return harness

    async def test_a_version_waits_for_approval_and_nothing_is_loaded(self, registry: Harness) -> None:
        assert await registry.stages() == [Stage.AWAITING_APPROVAL]
        assert not registry.deployments()

    async def test_an_approved_version_goes_on_and_the_audit_says_who_let_it(self, registry: Harness) -> None:
        standing = await registry.approvals.approve("minutes", 1, actor="ann", comment="looks right")

        assert standing.challenger == 1
        (entry,) = [entry for entry in registry.audited() if entry.action == "accepted"]
        assert (entry.actor, entry.reason) == ("ann", "approved: looks right")

    async def test_a_rejected_version_never_loads(self, registry: Harness) -> None:
        version = await registry.approvals.reject("minutes", 1, actor="ann", comment="not today")

        assert version.stage is Stage.REJECTED
        assert not registry.deployments()
        assert (registry.events()[-1].actor, registry.events()[-1].sentence) == ("ann", "rejected: not today")
        with pytest.raises(NotNow, match="is REJECTED and does not wait"):
            await registry.approvals.approve("minutes", 1, actor="ann", comment="")

    async def test_approval_comes_too_late_once_the_champion_has_been_replaced(
        self, registry: Harness
    ) -> None:
        await registry.consider("second")
        await registry.approvals.approve("minutes", 1, actor="ann", comment="")
        await registry.serve()

        with pytest.raises(NotNow, match="version 1 is the champion now"):
            await registry.approvals.approve("minutes", 2, actor="ann", comment="")

    async def test_nobody_cannot_approve_and_nothing_cannot_be_approved(self, registry: Harness) -> None:
        with pytest.raises(Unsigned):
            await registry.approvals.approve("minutes", 1, actor="", comment="")
        with pytest.raises(UnknownVersion, match="has no version 9"):
            await registry.approvals.approve("minutes", 9, actor="ann", comment="")
        with pytest.raises(UnknownModel):
            await registry.approvals.reject("nobody", 1, actor="ann", comment="")


def test_a_comparison_reads_the_rows_of_which_both_were_asked_and_a_bound_reads_all() -> None:
    partly = an_evaluation(error=3.0, champion_error=1.0, not_asked=200)
    model = parse("Model", documents(rollout={"cap": 60}, gates=[AT_MOST, VERSUS])[3])
    assert isinstance(model, Model)

    bound, versus = evaluation.judge(model.spec, partly, champion=1)

    assert bound.value == pytest.approx(1.2, abs=0.2), "half of the rows without an error"
    assert not versus.passed
    assert versus.value == pytest.approx(-1.6, abs=0.3), "the rows of which both were asked"


def test_of_classes_gates_read_the_chances() -> None:
    sure, unsure = [0.9, 0.05, 0.05], [0.4, 0.3, 0.3]
    table = pa.table(
        {
            "label": [0.0] * 300,
            "prediction": [0.0] * 300,
            "vendor": ["x", "y", "y"] * 100,
            "champion_prediction": pa.array([None] * 100 + [0.0] * 200, pa.float64()),
            "probabilities": pa.array([sure] * 300, pa.list_(pa.float64(), 3)),
            "champion_probabilities": pa.array(
                [[math.nan] * 3] * 100 + [unsure] * 200, pa.list_(pa.float64(), 3)
            ),
        }
    )
    sink = pa.BufferOutputStream()
    with pa.ipc.new_file(sink, table.schema) as writer:
        writer.write_table(table)
    gates = [
        {"metric": "log_loss", "at_most": 0.2},
        {"metric": "log_loss", "versus": "champion"},
        {"metric": "calibration_error", "at_most": 0.2},
        {"fairness": "vendor", "of": "true_positive_rate", "min_ratio": 0.9},
    ]
    label = {"source": "dropoffs", "on": "trip", "value": "zone", "within": "4h", "classes": ["a", "b", "c"]}
    model = parse("Model", documents(task="multiclass", rollout={}, gates=gates, label=label)[3])
    assert isinstance(model, Model)

    bound, versus, calibrated, fair = evaluation.judge(model.spec, bytes(sink.getvalue()), champion=1)

    assert bound.value == pytest.approx(-math.log(0.9))
    assert calibrated.value == pytest.approx(0.1)
    assert (fair.passed, fair.value) == (True, 1.0)
    assert "of class a is 1 for" in fair.sentence
    assert (versus.passed, versus.value) == (True, pytest.approx(math.log(0.9 / 0.4)))
