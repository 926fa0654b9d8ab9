"""What a spec would have done on history: the loop's decisions over a file, and what is said of them."""

import asyncio
import csv
import json
import multiprocessing
import os
import pickle
import signal
import sys
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from google.protobuf import json_format
from trimtab import cli, project
from trimtab.backtest import abreast, guessing, history, running, strategies, telling
from trimtab.backtest.guessing import Ordered
from trimtab.backtest.history import Events, History, Project
from trimtab.backtest.living import Watching
from trimtab.backtest.shelf import Shelf, opened
from trimtab.backtest.strategies import Backtest, Wishes
from trimtab.backtest.workbench import Candidate, Workbench
from trimtab.cli.backtest import progress
from trimtab.demo import run as demo
from trimtab.files import File
from trimtab_contracts.registry.v1.registry_pb2 import Resource as ResourceMessage
from trimtab_core import specs
from trimtab_core.losses import clip, loss
from trimtab_core.timestamps import iso
from trimtab_runtime.errors import Rejected, Unavailable

HOUR, DAY = 3_600_000, 86_400_000
BEGIN = 1_700_000_000_000 // DAY * DAY
PER_HOUR, HOURS, CHANGES = 20, 8 * 24, 5 * 24
SPEC = """
kind: Source
metadata: {name: rides}
spec:
  key: id
  event_time: at
  lateness: 1h
  fields:
    id: {type: string}
    at: {type: timestamp}
    road: {type: string}
    x: {type: number}
    y: {type: number}
---
kind: FeatureView
metadata: {name: road}
spec:
  source: rides
  entity: road
  aggregates: [{field: x, functions: [mean], windows: [6h]}]
  hop: 1h
  ttl: 10d
---
kind: Model
metadata: {name: ride}
spec:
  task: regression
  source: rides
  features: [request.x, road.x_mean_6h]
  label: {source: rides, on: id, value: y, within: 1h}
  trainer: {kind: linear, window: 3d, half_life: 12h, min_rows: 100}
  gates: [{metric: mae, versus: champion}]
  rollout: {strategy: STRATEGY, steps: [50, 100], cap: 20, within: 2d}
  monitoring: {window: 100, false_alarms: "1 per 90d"}
  retrain: {RETRAIN}
"""
ON_DRIFT = "on: [performance], cooldown: 6h, at_most: 10 per 10d"


def rides(*, slope: float = 2.0, later: float = 5.0, seed: int = 3) -> list[dict[str, Any]]:
    """Rows of a world that changes its slope."""
    rng = np.random.default_rng(seed)
    count = PER_HOUR * HOURS
    at = BEGIN + np.arange(count) * (HOUR // PER_HOUR) + rng.integers(0, HOUR // PER_HOUR, count)
    x, noise = rng.normal(0, 3, count).round(3), rng.normal(0, 0.5, count)
    y = np.where(at < BEGIN + CHANGES * HOUR, slope, later) * x + noise
    return [
        {"id": f"r{n}", "at": iso(int(at[n])), "road": "ab"[n % 2], "x": float(x[n]), "y": float(y[n])}
        for n in range(count)
    ]


def project_of(*, strategy: str = "canary", retrain: str = ON_DRIFT) -> Project:
    return Project.of(project.parse(SPEC.replace("STRATEGY", strategy).replace("RETRAIN", retrain)).resources)


@pytest.fixture(scope="module")
def lived_history() -> History:
    return history_of(rides())


def history_of(rows: list[dict[str, Any]]) -> History:
    made = project_of()
    at_ms = np.array([int(np.datetime64(row["at"][:-1], "ms").astype(np.int64)) for row in rows])
    columns = {name: [row[name] for row in rows] for name in made.fields("rides")}
    return history.history(made, {"rides": Events(at_ms, columns)})


@pytest.fixture(scope="module")
def shelf() -> Shelf:
    return Shelf()


def lived(found: History, shelf: Shelf, *names: str, **of: Any) -> Backtest:
    return strategies.run(project_of(**of), found, Wishes(names or strategies.NAMES), shelf=shelf)


def test_on_drift_a_better_model_comes_and_each_strategy_is_charged_for_what_it_did(
    lived_history: History, shelf: Shelf
) -> None:
    found = lived(lived_history, shelf)

    said = telling.document(found)
    assert list(said) == ["rows", "strategies", "alarms"]
    assert said["rows"] == PER_HOUR * HOURS
    assert list(said["strategies"]) == ["never", "scheduled", "on_drift", "always"]
    assert all(
        list(each) == ["metric", "value", "retrains", "refused"] for each in said["strategies"].values()
    )
    values = {name: each["value"] for name, each in said["strategies"].items()}
    assert values["on_drift"] < values["never"] * 0.7
    first = said["alarms"][0]
    assert (first["kind"], first["version"], first["drifted"]) == ("performance", 1, ["loss"])
    assert 0 <= np.datetime64(first["at"][:-1], "ms").astype(np.int64) - (BEGIN + CHANGES * HOUR) < DAY
    never, always = (found.lives[name] for name in ("never", "always"))
    assert (never.retrains, never.promotions, never.alarms) == ([], [], [])
    assert len(always.retrains) > 20 and {each.outcome for each in always.retrains} >= {"refused", "live"}
    assert all(each.rows and each.seconds for each in always.retrains)


def test_a_change_of_the_losses_is_seen_row_by_row_where_the_spec_asks_for_it() -> None:
    found, fitted = history_of(rides(seed=4)), Shelf()
    of_windows, of_rows = (
        lived(found, fitted, "on_drift", retrain=ON_DRIFT.replace("performance", kind))
        for kind in ("performance", "concept")
    )
    by_windows, by_rows = (each.lives["on_drift"] for each in (of_windows, of_rows))

    (told, *_) = telling.document(of_rows)["alarms"]
    assert (told["kind"], told["drifted"]) == ("concept", ["loss"])
    seen = by_rows.alarms[0].drift
    assert seen.kind == "concept"
    assert BEGIN + CHANGES * HOUR < seen.at_ms < by_windows.alarms[0].drift.at_ms - 8 * HOUR
    assert "live" in [each.outcome for each in by_rows.retrains]


def test_a_version_above_the_accepted_level_is_told_before_its_windows_tell_it(
    lived_history: History, shelf: Shelf
) -> None:
    document = SPEC.replace("STRATEGY", "canary").replace("RETRAIN", ON_DRIFT)
    made = Project.of(
        project.parse(document.replace("window: 100", "window: 100, accept: {at_most: 2}")).resources
    )
    plain = lived(lived_history, shelf, "on_drift").lives["on_drift"]

    life = strategies.run(made, lived_history, Wishes(("on_drift",)), shelf=shelf).lives["on_drift"]

    first = life.alarms[0]
    assert "above the accepted 2" in first.drift.summary
    assert BEGIN + CHANGES * HOUR < first.drift.at_ms < plain.alarms[0].drift.at_ms
    assert (life.retrains[0].trigger, life.retrains[0].as_of_ms) == ("performance", first.drift.at_ms)
    assert "live" in [each.outcome for each in life.retrains]


def test_the_first_versions_answers_are_what_never_loses(lived_history: History, shelf: Shelf) -> None:
    found = lived(lived_history, shelf, "never")
    made = project_of()
    bench = Workbench(made.model, made.sources["rides"], lived_history, shelf=shelf)
    first = bench.candidate(found.from_ms, None)
    assert isinstance(first, Candidate)
    start = int(np.searchsorted(lived_history.at_ms, found.from_ms))

    said = first.answers(start, len(lived_history))
    expected = clip(loss("mae", lived_history.label[start:], said), made.model.spec.cap)
    np.testing.assert_allclose(found.lives["never"].losses[start:], expected)
    assert np.isnan(found.lives["never"].losses[:start]).all()
    assert first.trained_to_ms < found.from_ms


def test_what_is_ordered_alike_is_fitted_once(lived_history: History, shelf: Shelf) -> None:
    lived(lived_history, shelf)
    again = lived(lived_history, shelf)

    assert (again.spent.fits, again.spent.seconds) == (0, 0.0)


def test_strategies_lived_abreast_come_to_the_same_to_the_bit(
    lived_history: History, shelf: Shelf, monkeypatch: pytest.MonkeyPatch
) -> None:
    names, heard = ("scheduled", "always"), set[str]()
    alone = lived(lived_history, shelf, *names)
    monkeypatch.setattr(strategies, "LONG_S", 0.0)

    with opened(shared=True) as shared:
        watching = Watching(on_fit=heard.add, on_time=lambda name, *_: heard.add(name))
        together = strategies.run(project_of(), lived_history, Wishes(names), shelf=shared, watching=watching)

    assert heard == {"", *names}
    for name in names:
        ours, theirs = alone.lives[name], together.lives[name]
        assert ours.losses.tobytes() == theirs.losses.tobytes()
        assert ours.promotions == theirs.promotions
        assert [replace(each, seconds=0.0) for each in ours.retrains] == [
            replace(each, seconds=0.0) for each in theirs.retrains
        ]
    retrains = {name: len(together.lives[name].retrains) for name in names}
    # The first version is judged by three fits, as what `scheduled` orders is, and what `always` orders by one.
    assert together.spent.fits == 4 * (1 + retrains["scheduled"]) + 2 * retrains["always"]


def test_a_process_that_is_killed_ends_the_backtest_with_a_sentence(
    lived_history: History, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(strategies, "LONG_S", 0.0)
    # What is told of so many steps is more than a pipe holds, so nothing has ended when the first is heard of.
    wishes = Wishes(("always",), step_ms=HOUR // 60)

    def kill(*_: object) -> None:
        for each in multiprocessing.active_children():
            each.kill()

    with opened(shared=True) as shared, pytest.raises(Unavailable, match="'always' ended with signal 9"):
        strategies.run(project_of(), lived_history, wishes, shelf=shared, watching=Watching(on_time=kill))
    assert not multiprocessing.active_children()


MAKER = """
import os
import time
from trimtab.backtest import abreast

class Endless:
    @property
    def model(self):
        print(os.getpid(), flush=True)
        time.sleep(600)

if __name__ == "__main__":
    line = abreast._processes.Pipe(duplex=False)
    process = abreast._processes.Process(target=abreast._live, args=(line[1], Endless()), daemon=True)
    process.start()
    time.sleep(600)
"""


async def test_a_process_at_a_long_fit_ends_with_the_one_that_made_it(tmp_path: Path) -> None:
    (script := tmp_path / "maker.py").write_text(MAKER)
    maker = await asyncio.create_subprocess_exec(sys.executable, script, stdout=asyncio.subprocess.PIPE)
    assert maker.stdout
    at_work = int(await maker.stdout.readline())

    maker.kill()
    try:
        async with asyncio.timeout(60):
            assert await maker.stdout.read() == b""  # ends once all who could write to it have ended
    except TimeoutError:
        os.kill(at_work, signal.SIGKILL)
        raise
    finally:
        await maker.communicate()


class Stubborn(Exception):
    """Comes out of no line, for it was made of something else than what it says."""

    def __init__(self, *, what: str) -> None:
        super().__init__(f"no {what}")


def test_an_error_that_no_line_lets_through_is_told_by_its_traceback() -> None:
    for error in (Stubborn(what="luck"), RuntimeError("no luck", lambda: None)):
        told = pickle.loads(pickle.dumps(abreast._failed(error)))
        assert isinstance(told.error, RuntimeError)
        assert type(error).__name__ in str(told.error) and "no luck" in str(told.error)
    told = pickle.loads(pickle.dumps(abreast._failed(Rejected("no luck"))))
    assert (type(told.error), str(told.error)) == (Rejected, "no luck")


def test_sigterm_ends_a_backtest_and_leaves_no_folder() -> None:
    before, folders = signal.getsignal(signal.SIGTERM), list[Path]()

    def told_to_end() -> None:
        with progress(), opened(shared=True) as shared:
            assert shared.folder is not None and shared.folder.exists()
            folders.append(shared.folder)
            os.kill(os.getpid(), signal.SIGTERM)
            threading.Event().wait(30)

    with pytest.raises(SystemExit) as ended:
        told_to_end()

    assert ended.value.code == 128 + signal.SIGTERM
    assert not folders[0].exists()
    assert signal.getsignal(signal.SIGTERM) is before


def test_what_two_make_at_once_is_made_by_the_first_and_waited_for_by_the_second() -> None:
    made, may_end = list[int](), threading.Event()

    def make() -> int:
        made.append(len(made))
        may_end.wait(30)
        return 7

    with opened(shared=True) as one, ThreadPoolExecutor(2) as threads:
        other = Shelf(one.folder)
        both = [threads.submit(each.once, ("a", 1), make) for each in (one, other)]
        may_end.set()
        assert [each.result(30) for each in both] == [7, 7]
    assert made == [0]


def test_the_length_of_steps_does_not_move_what_is_seen(lived_history: History, shelf: Shelf) -> None:
    made = project_of(retrain="on: []")

    def alarms(step_ms: int) -> list[tuple[str, int]]:
        found = strategies.run(made, lived_history, Wishes(("on_drift",), step_ms=step_ms), shelf=shelf)
        assert " of a kind that `retrain.on` leaves out" in " ".join(telling.sentences(found))
        return [(each.drift.episode, each.drift.at_ms) for each in found.lives["on_drift"].alarms]

    assert alarms(HOUR) == alarms(7 * HOUR) != []


@pytest.mark.parametrize("strategy", ["immediate", "shadow"])
def test_a_candidate_comes_to_answer_as_its_rollout_says(
    lived_history: History, shelf: Shelf, strategy: str
) -> None:
    retrain = f"{ON_DRIFT}, dry_run: true"  # which a backtest is by itself, so it changes nothing in one
    life = lived(lived_history, shelf, "on_drift", strategy=strategy, retrain=retrain).lives["on_drift"]

    won = next(each for each in life.retrains if each.outcome == "live")
    (at_ms, version) = life.promotions[0]
    assert version == won.version
    if strategy == "immediate":
        assert (won.settled_ms, won.verdict) == (won.as_of_ms, None)
        assert at_ms - won.as_of_ms < 3 * HOUR
    else:
        assert won.verdict is not None and won.verdict.outcome == "PROMOTE"
        assert won.settled_ms == won.verdict.at_ms > won.as_of_ms


def test_schedules_and_new_rows_order_runs_at_their_times(lived_history: History, shelf: Shelf) -> None:
    def as_of(when: str) -> list[int]:
        retrain = f"on: [], {when}, cooldown: 1h, at_most: 100 per 10d"
        life = lived(lived_history, shelf, "scheduled", retrain=retrain).lives["scheduled"]
        return [each.as_of_ms for each in life.retrains]

    scheduled, counted = as_of('schedule: "0 */12 * * *"'), as_of("new_rows: 700")

    assert scheduled and all(at % (12 * HOUR) == 0 for at in scheduled)
    first = int(np.searchsorted(lived_history.at_ms, counted[0]))
    start = int(np.searchsorted(lived_history.at_ms, BEGIN + 64 * HOUR))
    assert len(counted) > 1 and first - start == pytest.approx(700, abs=PER_HOUR)


def test_features_and_labels_are_those_of_a_training_set(lived_history: History) -> None:
    rows, at = rides(), PER_HOUR * 30 + 7
    begin = int(lived_history.at_ms[at]) // HOUR * HOUR
    seen = [
        row["x"]
        for row, time in zip(rows, lived_history.at_ms.tolist(), strict=True)
        if begin - 6 * HOUR <= time < begin and row["road"] == rows[at]["road"]
    ]

    assert lived_history.names == ("request.x", "road.x_mean_6h")
    np.testing.assert_allclose(lived_history.numbers[at], [rows[at]["x"], np.mean(seen)], rtol=1e-5)
    assert lived_history.label[at] == rows[at]["y"]
    assert lived_history.known_ms[at] == lived_history.at_ms[at]


def run(monkeypatch: pytest.MonkeyPatch, *words: object) -> Any:
    monkeypatch.setattr(sys, "argv", ["trimtab", *map(str, words)])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    return ended.value.code


def table(path: Path, rows: Sequence[dict[str, Any]]) -> Path:
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]) if rows else ["x", "y"])
        writer.writeheader()
        writer.writerows(rows)
    return path


def test_a_project_and_its_file_give_json_and_a_page(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "project.yaml").write_text(SPEC.replace("STRATEGY", "canary").replace("RETRAIN", ON_DRIFT))
    data, page = table(tmp_path / "rides.csv", rides()), tmp_path / "page.html"

    code = run(
        monkeypatch, "backtest", tmp_path / "project.yaml", "--data", data, "-o", page, "--every", "2d", "--json"
    )  # fmt: skip

    assert code == 0
    said = json.loads(capsys.readouterr().out)
    assert said["strategies"]["on_drift"]["value"] < said["strategies"]["never"]["value"]
    html = page.read_text()
    assert html.count("<svg") == 2 and "went from" in html and "on_drift" in html


def test_a_file_is_read_for_each_source_whose_columns_it_has(tmp_path: Path) -> None:
    text = (
        SPEC.replace("STRATEGY", "canary")
        .replace("RETRAIN", ON_DRIFT)
        .replace("label: {source: rides", "label: {source: ends")
    )
    ends = "\n---\nkind: Source\nmetadata: {name: ends}\nspec:\n  key: id\n  event_time: end\n  lateness: 1h\n  fields:\n"
    fields = "    id: {type: string}\n    end: {type: timestamp}\n    y: {type: number}\n"
    made = Project.of(project.parse(text.replace("    y: {type: number}\n", "") + ends + fields).resources)
    asked = table(
        tmp_path / "asked.csv",
        [{name: row[name] for name in ("id", "at", "road", "x")} for row in rides()[:200]],
    )
    ended = table(
        tmp_path / "ended.csv", [{"id": row["id"], "end": row["at"], "y": row["y"]} for row in rides()[:200]]
    )

    held = running.read(made, [str(asked), f"ends={ended}"])
    assert {name: len(each.at_ms) for name, each in held.items()} == {"rides": 200, "ends": 200}
    found = history.history(made, running.read(made, [str(ended), str(asked)]))
    np.testing.assert_array_equal(found.label, [row["y"] for row in rides()[:200]])
    with pytest.raises(Rejected, match=r"no file has the columns of source 'ends' .*--data ends=FILE"):
        running.read(made, [str(asked)])
    of_a_model = ends.replace("  event_time: end", "  event_time: end\n  predictions_of: other")
    chained = Project.of(
        project.parse(text.replace("    y: {type: number}\n", "") + of_a_model + fields).resources
    )
    with pytest.raises(Rejected, match="predictions of 'other' and are not made here: name its file with"):
        running.read(chained, [str(asked)])


def test_the_demos_trips_are_written_as_files_that_its_project_reads(tmp_path: Path) -> None:
    trip = {
        "pickup_datetime": "2020-03-01 12:00:00", "dropoff_datetime": "2020-03-01 12:20:00", "passenger_count": 1.0,
        "trip_distance": 5.0, "pickup_location_id": 7, "dropoff_location_id": 9, "trip_id": "2020-03-00000", "month": "2020-03",
    }  # fmt: skip
    (tmp_path / "demo").mkdir()
    pq.write_table(pa.Table.from_pylist([trip]), tmp_path / "demo" / "taxi-trips-1.parquet")

    own, *files = demo.write(tmp_path / "taxi", tmp_path)

    made = Project.of(project.load(own).resources)
    held = running.read(made, [str(path) for path in files])
    assert held["pickups"].columns["distance"] == [5.0]
    assert held["dropoffs"].columns["mph"] == [15.0]
    with pytest.raises(Rejected, match="is there already: remove it"):
        demo.write(tmp_path / "taxi", tmp_path)


def test_rows_are_taken_in_the_order_of_a_column_of_numbers(tmp_path: Path) -> None:
    path = tmp_path / "some.csv"
    path.write_text("step,x\n30,c\n,d\n7.5,a\nsoon,e\n8,b\n1" + 400 * "0" + ",f\n")

    rows = [row.fields or {} for row in Ordered(File(str(path)), "step").rows()][:5]

    assert "".join(row["x"] for row in rows) == "abcde"
    first, *others = [row["step"] for row in rows]
    assert others == [first + 60_000, first + 120_000, None, "soon"]


def test_a_table_of_classes_without_times_is_lived_in_its_order(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    rng = np.random.default_rng(5)
    x, other = rng.normal(size=(2, 400)).round(3)
    up = np.where(np.arange(400) < 250, x, -x) + rng.normal(0, 0.3, 400) > 0
    rows = [
        {"step": n, "x": a, "other": b, "class": "UP" if c else "DOWN"}
        for n, (a, b, c) in enumerate(zip(x.tolist(), other.tolist(), up.tolist(), strict=True))
    ]
    monkeypatch.setenv("COLUMNS", "80")

    assert (
        run(
            monkeypatch,
            "backtest",
            "--data",
            table(tmp_path / "p.csv", [rows[at] for at in rng.permutation(400)]),
            "--label",
            "class",
            "--time",
            "step",
            "--every",
            "400m",
            "--schedule",
            "0 0 1 7 *",
        )
        == 0
    )

    said = capsys.readouterr().out
    assert "┃ strategy  ┃ log_loss ┃" in said and "│ scheduled │" in said, "names are not broken"
    said = " ".join(said.split())
    assert "its features: request.x, request.other. step holds numbers and no times, so their order" in said
    assert "400 rows; 300 of them, from row 100 to row 400" in said
    assert said.count("That never came while rows were answered, so it is `never` by another name") == 2


def test_a_guessed_spec_hears_of_losses_row_by_row_and_takes_more_nulls_for_drift(tmp_path: Path) -> None:
    rows = [{"x": n % 13, "y": n % 7} for n in range(200)]
    found = guessing.guess(File(str(table(tmp_path / "some.csv", rows))), label="y")
    made = Project.of(found.resources)

    model, _ = guessing.settled(made.model, np.arange(200) * HOUR)

    assert "concept" in model.spec.retrain.on
    [source] = made.sources.values()
    assert source.spec.fields["x"].expect.limits["null_share"].holds(1)


def test_what_a_guessed_model_reads_is_told_and_what_it_leaves_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    rng = np.random.default_rng(5)
    rows = [
        {"x": x, "other": n % 7, "name": f"n{n}", "tags": ["a"], "y": 2 * x + noise}
        for n, (x, noise) in enumerate(zip(rng.normal(size=300), rng.normal(0, 0.1, 300), strict=True))
    ]
    data = tmp_path / "some.jsonl"
    data.write_text("\n".join(map(json.dumps, rows)))

    assert run(monkeypatch, "backtest", "--data", data, "--label", "y", "--every", "300m") == 0

    said = " ".join(capsys.readouterr().out.split())
    assert "one is guessed; its features: request.x, request.other." in said
    assert (
        "x moves with y (correlation 1.00): if it is not known before y is, the numbers above mean nothing"
        in said
    )
    assert "Left out: name (no two rows have the same); tags (it holds lists or objects)." in said


@pytest.mark.parametrize(
    ("rows", "words", "sentence"),
    [
        ([], ["--label", "y"], "is empty: name a file with history in it"),
        ([{"x": 1, "y": 2}] * 20, ["--label", "y"], "has 20 rows, and a backtest needs 100"),
        ([{"x": n, "y": 2} for n in range(200)], ["--label", "y"], "is the same in every row"),
        ([{"x": n, "y": n} for n in range(200)], ["--label", "z"], "--label 'z' is no column of"),
        ([{"x": n, "y": n} for n in range(200)], [], "say --label COLUMN"),
        ([{"x": n, "y": n} for n in range(200)], ["--label", "y", "--task", "rank"], "--task 'rank' is none"),
        ([{"x": n, "y": n} for n in range(200)], ["--label", "y", "--task", "binary"], "a classification needs two"),
        (
            [{"when": f"yesterday {n}", "x": n, "y": n % 7} for n in range(200)],
            ["--label", "y", "--time", "when"],
            "--time 'when' holds no times that are understood, but a string such as 'yesterday 0'",
        ),
        (
            [{"x": n, "y": "ab"[n > 200]} for n in range(300)],
            ["--label", "y"],
            "the first version, as of row 75, cannot be trained",
        ),
        (
            [{"x": f"w{n}", "y": n % 9} for n in range(200)],
            ["--label", "y"],
            "no column can be a feature (x: no two rows have the same)",
        ),
        (
            [{"at": "2024-01-01T00:00:00Z", "x": n % 7, "y": n % 9} for n in range(200)],
            ["--label", "y"],
            "each row is of 2024-01-01 00:00, so nothing came later",
        ),
        ([{"x": f"w{n}", "y": f"v{n}"} for n in range(200)], ["--label", "y"], "has 200 different values"),
    ],
)  # fmt: skip
def test_rubbish_is_answered_with_a_sentence(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    rows: list[dict[str, Any]],
    words: list[str],
    sentence: str,
) -> None:
    said = run(monkeypatch, "backtest", "--data", table(tmp_path / "some.csv", rows), *words)

    assert sentence in str(said) and str(said).count("\n") == 0


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (lambda row: row | {"y": 1.0}, "is 1 in every row, so there is nothing to learn"),
        (lambda row: row | {"at": "noon"}, "all 3,840 are refused, the first because at 'noon'"),
        (lambda row: {name: row[name] for name in ("id", "at", "x")}, "has no row that source 'rides' takes"),
        (lambda row: row | {"y": row["y"] * 1e6}, "is refused, and nothing would ever answer"),
    ],
)
def test_history_that_a_project_cannot_learn_from_is_answered_with_a_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, change: Any, sentence: str
) -> None:
    text = SPEC.replace("STRATEGY", "canary").replace("RETRAIN", ON_DRIFT)
    (tmp_path / "project.yaml").write_text(
        text.replace("\n  gates: [", "\n  gates: [{metric: mae, at_most: 5}, ")
    )
    data = table(tmp_path / "rides.csv", [change(row) for row in rides()])

    said = run(monkeypatch, "backtest", tmp_path / "project.yaml", "--data", data)

    assert sentence in str(said) and str(said).count("\n") == 0


def test_rows_of_before_1970_are_refused_for_what_they_are(tmp_path: Path) -> None:
    made, rows = project_of(), rides()[:5]

    def read(old: int) -> Events:
        dated = [row | {"at": row["at"].replace("2023", "1953")} for row in rows[:old]] + rows[old:]
        data = File(str(table(tmp_path / "rides.csv", dated)))
        return history.events(made.sources["rides"], [data], made.fields("rides"), {})

    assert (len(read(3).at_ms), read(3).refused) == (2, {"at before 1970": 3})
    with pytest.raises(
        Rejected,
        match=r"all 5 .* its at is 1953-11-14T00:0\d\S+, and a backtest's time begins in 1970: leave",
    ):
        read(5)


class Registry:
    """A registry that has a project applied."""

    def __init__(self, text: str) -> None:
        self._resources = []
        for each in project.parse(text).resources:
            held = ResourceMessage(kind=each.kind, name=each.name)
            json_format.ParseDict(specs.to_document(each), held.document)
            self._resources.append(held)

    async def resources(self) -> list[ResourceMessage]:
        return self._resources

    async def apply(self, resources: Any, *, actor: str, validate_only: bool) -> None:
        assert validate_only


def test_a_plan_says_what_it_would_have_done_beside_what_is_applied(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    applied = SPEC.replace("STRATEGY", "canary").replace("RETRAIN", "on: []")
    (tmp_path / "project.yaml").write_text(SPEC.replace("STRATEGY", "canary").replace("RETRAIN", ON_DRIFT))
    data, report = table(tmp_path / "rides.csv", rides()), tmp_path / "plan.md"
    monkeypatch.setattr(
        "trimtab.cli.project.ask", lambda _, question: asyncio.run(question(Registry(applied)))
    )

    words = ["plan", tmp_path / "project.yaml", "--backtest", "--markdown", report]
    assert run(monkeypatch, *words, "--data", data) == 0

    said = report.read_text()
    assert "| changed | `Model/ride` | `spec.retrain" in said
    lines = {
        line.split("|")[1].strip(): line.split("|")[2:-1]
        for line in said.splitlines()
        if line.startswith("| `")
    }
    planned, _, _, before, retrains, _ = map(str.strip, lines["`on_drift`"])
    assert float(planned) < float(before) and retrains == "0"
    assert [cell.strip() for cell in lines["`always`"][3:]] == ["", "", ""]
    assert "name a file with --data" in str(run(monkeypatch, *words))
    monkeypatch.setattr(
        "trimtab.cli.project.ask",
        lambda _, question: asyncio.run(question(Registry((tmp_path / "project.yaml").read_text()))),
    )
    assert run(monkeypatch, *words, "--data", data) == 0
    assert "Backtest" not in report.read_text()
