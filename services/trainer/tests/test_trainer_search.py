"""Searches for a family and its parameters: what they see, find, tell and take up again."""

import json
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from trimtab_core.specs import Model, ModelSpec, parse
from trimtab_runtime.errors import Unavailable
from trimtab_trainer import job, sandbox
from trimtab_trainer.nursery import Nursery
from trimtab_trainer.sandbox import ChildProcess
from trimtab_trainer.usecases.entities import Recipe, TrainingSet
from trimtab_training import fitting, search, spaces, tpe
from trimtab_training.errors import RunFailed
from trimtab_training.families import Floats
from trimtab_training.progress import Progress, Stage, Tell, Telling
from trimtab_training.trials import Outcome, Trial, best, fingerprint, hand_over, handed_over

MINUTE = 60_000
ALPHA = {
    "families": ["linear"],
    "parameters": {"linear": {"alpha": {"min": 0.001, "max": 1000, "log": True}}},
}


def a_model(task: str = "regression", *, trainer: dict[str, Any] | None = None, **searched: Any) -> Model:
    spec = {
        "task": task,
        "source": "trips",
        "features": ["request.x"],
        "rollout": {"cap": 10},
        "label": {"source": "trips", "on": "id", "value": "y", "within": "10m"},
        "trainer": {"window": "30d", "kind": "auto", "search": searched, **(trainer or {})},
    }
    model = parse("Model", {"metadata": {"name": "m"}, "spec": spec})
    assert isinstance(model, Model)
    return model


def some_rows(count: int = 600) -> fitting.Rows:
    rng = np.random.default_rng(0)
    features = rng.normal(size=(count, 3)).astype(np.float32)
    label = 3 * features[:, 0].astype(np.float64) + rng.normal(0, 0.3, count)
    return fitting.Rows(features, label, np.arange(count) * MINUTE)


class Tried:
    """A judge that fits nothing: what is nearest to alpha 10 loses least; it remembers what it was asked."""

    def __init__(self, faults: dict[int, Exception] | None = None) -> None:
        self.asked: list[tuple[float, int]] = []
        self.faults = faults or {}

    def __call__(self, spec: ModelSpec, at: int) -> Floats:
        assert spec.trainer.kind != "auto"
        alpha = float(spec.trainer.parameters["alpha"])
        self.asked.append((alpha, at))
        if fault := self.faults.get(len(self.asked)):
            raise fault
        return np.full(5, abs(np.log10(alpha) - 1) + 0.1 * at)


def searched(
    folder: Path, judge: tpe.Judge, *, side_by_side: bool = False, **spec: Any
) -> tuple[list[Trial], dict[str, Any]]:
    told: list[Progress] = []
    search.find(
        a_model(**{**ALPHA, **spec}),
        folder,
        Telling(told.append, fits=7),
        judge,
        side_by_side=side_by_side,
    )
    return ended(told), json.loads((folder / "searched.json").read_text())


def ended(told: Sequence[Progress]) -> list[Trial]:
    return [progress.ended for progress in told if progress.ended]


def what_was_tried(trials: Sequence[Trial]) -> list[Any]:
    return [(it.number, it.family, it.parameters, it.outcome, it.values) for it in trials]


def test_the_defaults_are_tried_first_and_what_is_found_is_better(tmp_path: Path) -> None:
    trials, found = searched(tmp_path, Tried(), trials=24)

    assert trials[0].parameters == {"alpha": 1.0}
    assert len(trials) == 24
    winner = best(trials)
    assert winner and winner.values[-1] < trials[0].values[-1] / 2
    assert (found["kind"], found["parameters"]) == ("linear", winner.parameters)
    assert found["search"].startswith(f"trial {winner.number + 1} of 24, mae {winner.value:.6g} (")


def test_what_does_worse_than_half_of_those_before_is_pruned_and_costs_the_rest_of_its_fits(
    tmp_path: Path,
) -> None:
    judge = Tried()
    trials, _ = searched(tmp_path, judge, trials=24)

    outcomes = [trial.outcome for trial in trials]
    assert Outcome.PRUNED not in outcomes[:8]
    assert outcomes.count(Outcome.PRUNED) >= 4
    assert len(judge.asked) == sum(len(trial.values) for trial in trials) < 24 * 3


def test_the_same_seed_gives_the_same_trials_in_the_same_order_also_side_by_side(tmp_path: Path) -> None:
    first, _ = searched(tmp_path, Tried(), trials=20)
    again, _ = searched(tmp_path, Tried(), trials=20)
    beside, _ = searched(tmp_path, Tried(), trials=20, side_by_side=True)
    other, _ = searched(tmp_path, Tried(), trials=20, trainer={"seed": 1})

    assert what_was_tried(first) == what_was_tried(again) == what_was_tried(beside)
    assert what_was_tried(first)[1:] != what_was_tried(other)[1:]


@pytest.mark.parametrize("lived", [0, 1, 6, 8, 19])
def test_a_search_that_is_taken_over_goes_on_as_if_nothing_had_been(tmp_path: Path, lived: int) -> None:
    whole, found = searched(tmp_path, Tried(), trials=20)

    hand_over(tmp_path, whole[:lived])
    judge = Tried()
    rest, found_again = searched(tmp_path, judge, trials=20)

    assert what_was_tried(rest) == what_was_tried(whole[lived:])
    assert len(judge.asked) == sum(len(trial.values) for trial in whole[lived:])
    assert found_again == found


def test_a_trial_that_was_of_something_else_is_tried_anew(tmp_path: Path) -> None:
    whole, _ = searched(tmp_path, Tried(), trials=4)
    stranger = Trial(2, "linear", {"alpha": 7.0}, "mae", Outcome.COMPLETE, (0.0, 0.0, 0.0), 1.0, 1.0)

    hand_over(tmp_path, [*whole[:2], stranger])
    rest, _ = searched(tmp_path, Tried(), trials=4)

    assert what_was_tried(rest) == what_was_tried(whole[2:])


def test_a_trial_that_fails_is_counted_and_the_others_go_on(tmp_path: Path) -> None:
    trials, found = searched(tmp_path, Tried({4: ValueError("singular\nmatrix")}), trials=6)

    failed = [trial for trial in trials if trial.outcome is Outcome.FAILED]
    assert [(trial.number, trial.error, trial.value) for trial in failed] == [
        (1, "ValueError: singular", None)
    ]
    assert len(trials) == 6 and "1 failed" in found["search"]


def test_where_all_trials_fail_the_run_says_so_with_the_last_of_them(tmp_path: Path) -> None:
    judge = Tried(dict.fromkeys(range(1, 9), MemoryError("no room")))
    with pytest.raises(
        RunFailed,
        match=r"none of 3 trials .* linear with alpha .*: MemoryError: no room: see `trimtab run trials`",
    ):
        searched(tmp_path, judge, trials=3)


def test_what_cannot_be_reached_now_fails_no_trial(tmp_path: Path) -> None:
    with pytest.raises(Unavailable, match="away"):
        searched(tmp_path, Tried({5: Unavailable("the cluster is away")}), trials=6)


def test_the_budget_ends_a_search_once_one_trial_is_complete(tmp_path: Path) -> None:
    judge = Tried()
    trials, found = searched(tmp_path, judge, trials=1000, budget="1ms")

    assert trials[0].outcome is Outcome.COMPLETE
    assert len(trials) < 1000
    assert found["search"].endswith("ended by the budget")


def test_what_earlier_attempts_spent_counts_for_the_budget(tmp_path: Path) -> None:
    whole, _ = searched(tmp_path, Tried(), trials=4)
    hand_over(tmp_path, [Trial(*(*_fields(trial)[:7], 3600.0)) for trial in whole])

    rest, found = searched(tmp_path, Tried(), trials=8, budget="14m")

    assert rest == [] and "of 4," in found["search"]


def _fields(trial: Trial) -> list[Any]:
    return [getattr(trial, name) for name in Trial.__dataclass_fields__]


def test_trials_are_told_with_the_best_so_far(tmp_path: Path) -> None:
    told: list[Progress] = []
    search.find(a_model(trials=2, **ALPHA), tmp_path, Telling(told.append, fits=7), Tried())

    words = [(it.stage, it.trial, it.trials, it.best) for it in told if it.ended is None]
    assert words == [(Stage.SEARCHING, 1, 2, ""), (Stage.SEARCHING, 2, 2, "mae 1.1 by linear")]


def test_no_trial_sees_a_held_out_row_or_a_label_that_had_not_come() -> None:
    rows, spec = some_rows(200), a_model().spec
    judged = fitting.held_out(rows, spec)
    seen = search.older(rows, judged, spec)

    assert seen.event_time_ms[-1] + spec.label.within < rows.event_time_ms[judged.start]
    before = [search.judge(tpe.of_family(spec, "linear", {}), seen, at) for at in range(3)]
    rows.label[judged] = 1e9
    after = [
        search.judge(tpe.of_family(spec, "linear", {}), search.older(rows, judged, spec), at)
        for at in range(3)
    ]
    np.testing.assert_array_equal(before, after)


def test_too_few_rows_to_split_again_are_a_sentence_with_the_remedy() -> None:
    rows, spec = some_rows(50), a_model(trainer={"min_rows": 10, "holdout": 0.5}).spec

    with pytest.raises(RunFailed, match=r"only \d+ are older than those: widen trainer.window, or name a"):
        search.older(rows, fitting.held_out(rows, spec), spec)


def test_a_family_that_is_not_here_is_left_out_and_where_none_is_the_run_says_what_to_do(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(spaces, "_installed", lambda family: family == "linear")

    assert spaces.chosen_among(spec_of(families=["xgboost", "linear"])) == ("linear",)
    assert spaces.chosen_among(spec_of()) == ("linear",)
    with pytest.raises(RunFailed, match=r"families names lightgbm, xgboost, and this trainer has none"):
        spaces.chosen_among(spec_of(families=["lightgbm", "xgboost"]))


def spec_of(**searched: Any) -> Any:
    return a_model(**searched).spec.trainer.search


def test_a_specs_ranges_win_and_the_default_moves_into_them() -> None:
    tried = spaces.of_family(
        "hist_gradient_boosting",
        a_model(
            parameters={
                "hist_gradient_boosting": {
                    "learning_rate": {"min": 0.2, "max": 0.25},
                    "max_iter": {"min": 10.0, "max": 20.0},
                    "max_depth": 5,
                    "loss": ["squared_error", "absolute_error"],
                }
            }
        ).spec,
    )

    assert {name: tried[name].first for name in ("learning_rate", "max_iter", "max_depth", "loss")} == {
        "learning_rate": 0.2,
        "max_iter": 20,
        "max_depth": 5,
        "loss": "squared_error",
    }
    assert tried["max_leaf_nodes"].first == 31


@pytest.mark.parametrize("task", ["regression", "binary"])
def test_every_default_is_one_that_its_family_takes(task: str) -> None:
    spec, rows = a_model(task).spec, some_rows(120)
    if task == "binary":
        rows.label[:] = rows.label > 0
    for family in spaces.chosen_among(spec_of()):
        first = {name: tried.first for name, tried in spaces.of_family(family, spec).items()}
        fitting.fit(tpe.of_family(spec, family, first), rows)


def a_training_set(folder: Path) -> TrainingSet:
    rows = some_rows()
    columns = {"key": [str(at) for at in range(600)], "event_time_ms": rows.event_time_ms}
    columns |= {f"f{at}": rows.features[:, at].astype(np.float64) for at in range(3)} | {"label": rows.label}
    table = pa.table(columns)
    with pa.OSFile(str(folder / "rows.arrow"), "wb") as file, pa.ipc.new_stream(file, table.schema) as out:
        out.write_table(table)
    return TrainingSet(folder / "rows.arrow", (), "digest", 600)


def test_a_run_searches_and_ships_what_it_found(tmp_path: Path) -> None:
    a_training_set(tmp_path)
    quick = {"hist_gradient_boosting": {"max_iter": 3, "max_leaf_nodes": 4}}
    model = a_model(trials=3, families=["linear", "hist_gradient_boosting"], parameters=quick)
    (tmp_path / "job.json").write_text(json.dumps({"model": model.model_dump(mode="json"), "champion": None}))
    told: list[Progress] = []

    assert job.main(tmp_path, told.append) == 0

    made = json.loads((tmp_path / "result.json").read_text())
    assert made["parameters"]["kind"] == "linear"
    assert made["parameters"]["search"].startswith("trial ")
    assert {"alpha", "half_life_ms"} <= made["parameters"].keys()
    assert made["metrics"]["mae"] < 0.4
    assert len(ended(told)) == 3
    fits = [it for it in told if it.stage is Stage.FITTING and not it.iteration]
    assert [(it.fit, it.fits, it.trials) for it in fits] == [(at, 7, 3) for at in range(1, 8)]


async def test_a_trial_that_its_process_dies_of_is_counted_and_the_search_goes_on_after_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, told = a_model(trials=4, **ALPHA), list[Progress]()

    async def run(folder: Path, tell: Tell, **_: object) -> int:
        deaths = [it for it in told if it.trial == 2 and not it.ended]
        return job.main(folder, tell) if deaths else dying(folder, tell)

    def dying(folder: Path, tell: Tell) -> int:
        def tell_and_die(progress: Progress) -> None:
            tell(progress)
            if progress.stage is Stage.SEARCHING and progress.trial == 2 and not progress.ended:
                raise KeyboardInterrupt

        with suppress(KeyboardInterrupt):
            job.main(folder, tell_and_die)
        return -9

    monkeypatch.setattr(sandbox, "run", run)
    recipe = Recipe(model, 1, 600 * MINUTE)
    made = await ChildProcess(Nursery()).fit(recipe, a_training_set(tmp_path), tmp_path, told.append)

    trials = ended(told)
    assert [trial.number for trial in trials] == [0, 1, 2, 3]
    assert [trial.outcome is Outcome.FAILED for trial in trials] == [False, True, False, False]
    assert trials[1].error == "the training process was ended by SIGKILL (trainer.memory_mb is 4096)"
    assert trials[1].family == "linear" and "alpha" in trials[1].parameters
    assert "1 failed" in str(made.parameters["search"])


def test_trials_are_handed_over_as_they_were(tmp_path: Path) -> None:
    trials, _ = searched(tmp_path, Tried({2: ValueError("x")}), trials=3)

    assert handed_over(tmp_path) == []
    hand_over(tmp_path, trials)
    assert handed_over(tmp_path) == trials


def test_a_search_is_for_its_rows_and_its_spec_alone() -> None:
    one = fingerprint("rows", a_model(trials=3))

    assert one == fingerprint("rows", a_model(trials=3))
    assert one != fingerprint("others", a_model(trials=3))
    assert one != fingerprint("rows", a_model(trials=4))
