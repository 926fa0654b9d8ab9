"""A project from a user's own table: it can be applied as it is, takes the table's rows, and says what it guessed."""

import json
import math
import random
from collections.abc import Callable, Sequence
from datetime import date, datetime, timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import typer.testing
from trimtab import infer, project, scaffold
from trimtab.cli import app
from trimtab.cli.init import check
from trimtab.files import File
from trimtab_core import specs
from trimtab_core.specs import Model, Source
from trimtab_registry.usecases.checks import World
from trimtab_runtime.errors import Rejected

Rng = random.Random


def taxi(folder: Path, rng: Rng) -> Path:
    """Trips without an id, in the order in which they began, with real defects."""
    at, lines = (
        datetime(2018, 1, 1),
        ["vendor_id,pickup_datetime,dropoff_datetime,passenger_count,trip_distance,zone,payment,fare,total"],
    )
    for number in range(1500):
        at += timedelta(minutes=rng.choice([0, 5, 15]))
        miles, until = rng.lognormvariate(0.6, 0.8), at + timedelta(minutes=rng.uniform(3, 40))
        miles, fare = (
            46826.0 if number % 500 == 7 else miles,
            (2.5 + miles) * (-1 if number % 400 == 3 else 1),
        )
        seats = rng.choice([1, 1, 2, 6]) if number % 45 else ""
        paid = rng.choice(["Cash", "Card: chip", "No"])
        lines.append(
            f"{rng.choice([1, 2])},{at},{until},{seats},{miles:.2f},{rng.randint(1, 63)},{paid},{fare:.2f},{fare + 1:.2f}"
        )
    (path := folder / "taxi.csv").write_text("\n".join(lines))
    return path


def air(folder: Path, rng: Rng) -> Path:
    """Hourly values of a sensor, day first, date and time apart, comma for point, -200 for unknown."""
    at, lines = datetime(2004, 3, 10, 18), ["Date;Time;CO(GT);NMHC(GT);T;;"]
    for number in range(1000):
        at += timedelta(hours=1)
        warm = 10 * math.sin(number / 4) + rng.gauss(0, 2)
        values = [2 + rng.random(), rng.randint(10, 500), warm]
        shown = ["-200" if rng.random() < 0.1 else f"{value:.1f}".replace(".", ",") for value in values]
        lines.append(f"{at:%d/%m/%Y};{at:%H.%M.%S};{';'.join(shown)};;")
    (path := folder / "Air Quality.csv").write_text("\n".join([*lines, ";;;;;;", ""]))
    return path


def churn(folder: Path, rng: Rng) -> Path:
    """Customers with texts, numbers in texts, and a label of yes and no."""
    count = 600
    columns = {
        "customerID": [f"{number:05d}-{rng.randint(0, 9)}" for number in range(count)],
        "signup": [date(2022, 1, 1) + timedelta(days=number // 2) for number in range(count)],
        "Senior": [int(rng.random() < 0.2) for _ in range(count)],
        "Contract": [rng.choice(["One year", "Month-to-month", "true"]) for _ in range(count)],
        "TotalCharges": [f"{rng.uniform(18, 8000):.2f}" if number % 90 else " " for number in range(count)],
        "Churn": [rng.choice(["No", "No", "Yes"]) for _ in range(count)],
    }
    pq.write_table(pa.table(columns), path := folder / "churn.parquet")
    return path


def reviews(folder: Path, rng: Rng, verdicts: Sequence[str] = ("poor", "fair", "good")) -> Path:
    """Reviews whose words say how good a thing was, with a category, a text that is always the same, and tokens."""
    words = {0: "never again awful and late", 1: "it was as one expects", 2: "lovely and quick thank you"}
    at, rows = datetime(2024, 1, 1), []
    for number in range(600):
        kind = rng.choice([0, 0, 0, 1, 2] if len(verdicts) == 2 else [0, 1, 2, 2])
        at += timedelta(hours=1)
        said = [*words[kind].split(), rng.choice(["box", "man", "shop"]), f"n{number}"]
        rng.shuffle(said)
        rows.append(
            {
                "order_id": f"o{number}", "at": f"{at:%Y-%m-%dT%H:%M:%SZ}", "city": rng.choice(["ulm", "bonn", "No"]),
                "comment": " ".join(said) if number % 50 else None, "token": f"{rng.getrandbits(64):x}", "channel": "web",
                "price": round(rng.uniform(1, 90), 2), "verdict": verdicts[min(kind, len(verdicts) - 1)],
            }
        )  # fmt: skip
    (path := folder / "reviews.jsonl").write_text("\n".join(map(json.dumps, rows)))
    return path


def planned(path: Path, **wishes: str) -> scaffold.Plan:
    file = File(str(path))
    rows = [row.fields for row in file.rows() if row.fields]
    columns = infer.columns(rows, decimal_comma=file.decimal_comma)
    return scaffold.plan(columns, scaffold.Wishes(wishes.pop("name", "mine"), **wishes))


def resources(plan: scaffold.Plan) -> dict[str, Any]:
    """The written project, read back, and found without fault by what the registry asks of it."""
    text = "---\n".join(scaffold.files(plan, file="f.csv", sampled=1).values())
    found = project.parse(text).resources
    by_key = {each.key: each for each in found}
    assert World.of({}, by_key).faults(set(by_key)) == []
    return {each.kind: each.spec for each in found}


@pytest.mark.parametrize(
    ("make", "key", "time", "label", "entity", "task", "refused", "options"),
    [
        (taxi, "row_id", "pickup_datetime", "fare", "zone", "regression", "3 out_of_range trip_distance", ["--row-id", "row_id"]),
        (air, "row_id", "date_time", "T", None, "regression", "", ["--row-id", "row_id", "--map", "Date+Time=date_time", "--time-format", "%d/%m/%Y %H.%M.%S", "--null=-200"]),
        (churn, "customerID", "signup", "Churn", "Contract", "binary", "", []),
    ],
)  # fmt: skip
def test_a_project_is_applied_as_written_and_takes_all_rows_but_those_it_names(
    tmp_path: Path,
    make: Callable[[Path, Rng], Path],
    key: str,
    time: str,
    label: str,
    entity: str | None,
    task: str,
    refused: str,
    options: Sequence[str],
) -> None:
    path = make(tmp_path, Rng(1))
    plan = planned(path)

    found = resources(plan)

    source, view, model = found["Source"], found["FeatureView"], found["Model"]
    assert (source.key, source.event_time, view.entity) == (key, time, entity)
    assert (model.label.source, model.label.on, model.label.value, model.task) == ("mine", key, label, task)
    assert scaffold.ingest_options(plan) == ["--arrived", "event_time", *options]
    assert f"request.{label}" not in model.features
    judged = check(File(str(path)), Source(metadata=specs.Metadata(name="mine"), spec=source), plan)
    assert judged["why"] == refused
    assert judged["refused"] == (3 if refused else 0)


def test_a_label_of_a_few_texts_makes_a_model_of_classes_and_texts_are_features(tmp_path: Path) -> None:
    plan = planned(reviews(tmp_path, Rng(1)), label="verdict")

    model = resources(plan)["Model"]

    assert (model.task, model.label.classes) == ("multiclass", ("fair", "good", "poor"))
    assert {"request.price", "request.city", "text(request.comment)"} <= set(model.features)
    assert not {"request.token", "request.channel", "request.order_id"} & set(model.features)
    text = scaffold.files(plan, file="f", sampled=1)["model.yaml"]
    for said in (
        "# - request.token  # left out: 600 texts over 600 rows name things rather than kinds",
        "# - request.channel  # left out: it is the same in every row",
        "- text(request.comment)  # words, of which each counts by itself",
        "task: multiclass  # it is one of 3 texts",
        "judge: log_loss, within",
    ):
        assert said in text, said


def test_of_two_texts_the_rarer_is_taken_for_the_positive_class(tmp_path: Path) -> None:
    plan = planned(reviews(tmp_path, Rng(1), ("yes, again", "No")), label="verdict")

    model = resources(plan)["Model"]

    assert plan.label.type == "string"
    assert (model.task, model.label.classes) == ("binary", ("yes, again", "No"))
    assert (
        "the rarer here; turn them round if it is not"
        in scaffold.files(plan, file="f", sampled=1)["model.yaml"]
    )


def test_a_table_of_nothing_but_texts_has_its_label_among_them_and_its_key_is_no_text_of_words() -> None:
    rows = [
        {"text": f"this is note {n} of many", "ref": f"r{n}", "at": f"2024-01-{n % 28 + 1:02}", "outcome": "won" if n % 3 else "lost"}
        for n in range(60)
    ]  # fmt: skip
    plan = scaffold.plan(infer.columns(rows), scaffold.Wishes("mine"))

    assert (plan.key and plan.key.field, plan.label.field, plan.why["label"]) == (
        "ref", "outcome", "a guess: it is called like a label",
    )  # fmt: skip
    assert resources(plan)["Model"].label.classes == ("won", "lost")


def test_what_is_a_guess_or_looks_odd_is_said_beside_it(tmp_path: Path) -> None:
    trips = scaffold.files(planned(taxi(tmp_path, Rng(1))), file="f.csv", sampled=1)
    sensor = scaffold.files(planned(air(tmp_path, Rng(1))), file="f.csv", sampled=1)
    customers = scaffold.files(planned(churn(tmp_path, Rng(1))), file="f.csv", sampled=1)

    for text, said in (
        (trips["source.yaml"], "key: row_id  # no column tells the rows apart: `--row-id` gives each an id"),
        (trips["source.yaml"], "3 values are far away, like 46826: those rows are refused; widen it if they are right"),
        (trips["source.yaml"], "negative in 4 rows: if that should never be, write min: 0"),
        (trips["source.yaml"], 'payment: {type: string, enum: ["Card: chip", Cash, "No"]}'),
        (trips["source.yaml"], "others: dropoff_datetime"),
        (trips["source.yaml"], "no offset is written, so it is taken as UTC"),
        (trips["model.yaml"], "# - request.total  # moves with fare (correlation 1.00): put it in if it is known by then"),
        (sensor["source.yaml"], '-200 stands in'),
        (sensor["source.yaml"], "nmhc_gt: {type: integer, nullable: true, min: 0, max: 1000}"),
        (customers["source.yaml"], 'enum: ["Month-to-month", "One year", "true"]}  # all that was seen: any other is refused'),
        (customers["model.yaml"], "- request.Contract  # a category of 3 values"),
        (trips["model.yaml"], "task: regression  # it is a number with"),
        (customers["model.yaml"], "Predicts Churn: a guess: it is called like a label"),
    ):  # fmt: skip
        assert said in text


def test_a_person_who_knows_better_is_heard_or_told_why_not(tmp_path: Path) -> None:
    path = churn(tmp_path, Rng(1))
    plan = planned(path, label="TotalCharges", key="customerID", time="signup", name="telco")

    assert (plan.label.field, resources(plan)["Model"].task) == ("TotalCharges", "regression")
    for wishes, said in (
        (
            {"label": "customerID"},
            r"--label 'customerID' holds a string such as '00000-\d' and has 600 values, and a label is a number",
        ),
        ({"label": "nosuch"}, "--label 'nosuch' is no column of the file: name one of customerID, signup"),
        ({"time": "Churn"}, "--time 'Churn' holds no times that are understood, but a boolean"),
        ({"key": "signup"}, "--key 'signup' holds times, and an instant is written in many ways"),
        ({"key": "TotalCharges"}, "--key 'TotalCharges' is empty in 7 rows, and every event needs a key"),
    ):
        with pytest.raises(Rejected, match=said):
            planned(path, **wishes)


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        (
            [{"id": "a", "x": 1.5}],
            "no column looks like a time, and every event needs one: name it with --time",
        ),
        ([{"id": "a", "at": "2020-01-01", "s": "x"}], "no column can be what is predicted"),
    ],
)
def test_a_table_that_makes_no_project_is_told(rows: Sequence[dict[str, Any]], said: str) -> None:
    with pytest.raises(Rejected, match=said):
        scaffold.plan(infer.columns(rows * 3), scaffold.Wishes("mine"))


def test_names_that_yaml_or_a_field_would_take_amiss_are_written_so_that_they_are_read_back() -> None:
    names = ["null", "on", "true", "a b", "1st", "straße", "x:y", "- z", "A", "a", "a-b", "#", "%"]
    start = datetime(2020, 1, 1)
    rows = [
        {
            "at": str(start + timedelta(hours=n)),
            "label": n % 7 / 2,
            **dict.fromkeys(names, f"{n % 3}: '\"\n#"),
        }
        for n in range(100)
    ]

    found = resources(scaffold.plan(infer.columns(rows), scaffold.Wishes("mine")))

    assert list(found["Source"].fields)[3:] == [
        "null", "on", "true", "a_b", "c_1st", "stra_e", "x_y", "z", "A", "a", "a_b_2", "column", "column_2",
    ]  # fmt: skip
    assert found["Source"].fields["on"].enum == tuple(f"{n}: '\"\n#" for n in range(3))


TIMES = ["2020-01-31 05:00", "2020-02-01 06:30"]


@pytest.mark.parametrize(
    ("values", "type", "form"),
    [
        (["1", "2", None], "integer", ""),
        (["1.0", "2", "NA"], "integer", ""),
        (["1.5", "2e3"], "number", ""),
        (["007", "12"], "string", ""),
        (["1,5", "2"], "string", ""),
        (["yes", "No", "?"], "boolean", ""),
        (["1"] * 99 + ["x"], "integer", ""),
        (["1"] * 9 + ["x"], "string", ""),
        (["None", "x"], "string", ""),
        ([True, None], "boolean", ""),
        ([1, "x"], "string", ""),
        (TIMES, "timestamp", ""),
        ([f"{each}:00+01:00" for each in TIMES], "timestamp", ""),
        (["31/01/2020", "01/02/2020"], "timestamp", "%d/%m/%Y"),
        (["01/31/2020 1:05 PM", "02/01/2020 9:00 AM"], "timestamp", "%m/%d/%Y %I:%M %p"),
        (["31.01.2020 05:00:00", "01.02.2020 05:00:00"], "timestamp", "%d.%m.%Y %H:%M:%S"),
        (["20200131", "20200201"], "integer", ""),
        ([date(2020, 1, 31)], "timestamp", ""),
    ],
)
def test_a_column_is_what_its_values_are(values: Sequence[Any], type: str, form: str) -> None:
    (column,) = infer.columns([{"x": value} for value in values])

    assert (column.type, column.time_format) == (type, form)


def test_a_number_in_a_column_of_times_counts_seconds_or_milliseconds() -> None:
    seconds, millis = infer.columns(
        [{"created_at": 1_600_000_000 + n, "ts": 1_600_000_000_000 + n} for n in range(3)]
    )

    assert [(each.type, each.time_format) for each in (seconds, millis)] == [
        ("timestamp", "s"),
        ("timestamp", ""),
    ]
    assert seconds.times is not None and seconds.times[0] == 1_600_000_000_000


def test_a_date_that_can_be_read_in_two_ways_is_read_in_the_one_that_is_in_order_and_said() -> None:
    (column,) = infer.columns([{"x": f"0{month}/0{day}/2020"} for month in (1, 2, 3) for day in (1, 5, 9)])

    assert column.time_format == "%m/%d/%Y"
    assert column.notes == ["read as %m/%d/%Y; %d/%m/%Y would fit too: look at a date you know"]


@pytest.mark.parametrize(
    ("values", "sentinels"),
    [
        ([*range(100), -1, -1, -1], ["-1"]),
        ([*range(100), 999, 999, 999], ["999"]),
        ([*range(100), 999], []),
        ([*range(100), -200, -200, -200], ["-200"]),
        ([1, 2] * 50 + [6, 6, 6], []),
        ([*range(-50, 50), -99, -99, -99], []),
        ([*range(100), 120.5, 120.5, 120.5], []),
        ([5] * 50, []),
    ],
)
def test_a_sentinel_is_frequent_round_and_by_itself(
    values: Sequence[float], sentinels: Sequence[str]
) -> None:
    (column,) = infer.columns([{"x": value} for value in values])

    assert list(column.null_texts) == sentinels
    assert column.nullable == bool(sentinels)


def test_the_command_writes_says_what_to_do_next_and_overwrites_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    path = air(tmp_path, Rng(1))
    run = typer.testing.CliRunner().invoke

    done = run(app, ["init", "--from", path.name])
    again = run(app, ["init", "--from", path.name])
    example = run(app, ["init", "example"])

    assert done.exit_code == 0, done.output
    assert "of the first 1,000 rows none would be refused" in done.output
    command = next(line.strip() for line in done.output.splitlines() if "trimtab ingest" in line)
    assert command == (
        "trimtab ingest air-quality 'Air Quality.csv' --arrived event_time --row-id row_id --map Date+Time=date_time "
        "--time-format '%d/%m/%Y %H.%M.%S' --null=-200"
    )
    assert command in (tmp_path / "air-quality" / "source.yaml").read_text()
    assert "air-quality/source.yaml is there already" in str(again.exception)
    assert example.exit_code == 0
    written = project.load(tmp_path / "example").resources
    assert [each.name for each in written if isinstance(each, Model)] == ["trip-minutes"]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["init", "--label", "x"], "--label 'x' is about a file: say which with --from"),
        (["init", "--from", "nosuch.csv"], "there is no file 'nosuch.csv'"),
        (["init", "--from", "-"], "--from '-' cannot be read twice"),
        (["init", "--from", "empty.jsonl"], "empty.jsonl has no row to learn from"),
        (["ingest", "s", "empty.jsonl", "--map", "x"], "--map 'x' is not understood: write COLUMN=FIELD"),
        (["ingest", "s", "empty.jsonl", "--arrived", "then"], "--arrived 'then' is not understood"),
        (["ingest", "s", "empty.jsonl", "--speed", "fast"], "--speed 'fast' is not understood"),
        (["ingest", "s", "empty.jsonl", "--patience", "long"], "--patience 'long' is no duration"),
        (["ingest", "s", "-", "--format", "csv"], "standard input is read as JSONL, not as csv"),
        (["backfill", "s", "-"], "standard input cannot be gone on with: write it to a file first"),
        (["backfill", "s", "empty.jsonl", "--patience", "long"], "--patience 'long' is no duration"),
    ],
)
def test_what_the_commands_cannot_do_is_told_in_a_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: Sequence[str], said: str
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty.jsonl").touch()

    done = typer.testing.CliRunner().invoke(app, list(words))

    assert isinstance(done.exception, Rejected)
    assert said in str(done.exception)


def test_json_rows_make_a_project_too(tmp_path: Path) -> None:
    rows = [
        {"user": f"u{n}", "when": f"2020-01-0{n % 9 + 1}T05:00:00Z", "spent": n / 2, "tags": ["a"]}
        for n in range(60)
    ]
    (tmp_path / "a.jsonl").write_text("\n".join(map(json.dumps, rows)))

    plan = planned(tmp_path / "a.jsonl")

    assert (plan.key and plan.key.field, plan.time.field, plan.label.field) == ("user", "when", "spent")
    assert "tags" not in resources(plan)["Source"].fields
