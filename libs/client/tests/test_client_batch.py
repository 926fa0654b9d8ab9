"""The answers to a file: kept whole by parts, gone on with after anything, written in three formats."""

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, cast

import pyarrow.csv
import pyarrow.parquet as pq
import pytest
from trimtab.batch import Part, Read, Said, Scorer, answers_of, chunks, form_of, schema_of
from trimtab.files import Row
from trimtab.typed import Reading, Typing
from trimtab_contracts.registry.v1.registry_pb2 import VersionRef
from trimtab_core import specs
from trimtab_runtime.errors import Conflict, Rejected

FIELDS = {
    "trip": {"type": "string"},
    "at": {"type": "timestamp"},
    "zone": {"type": "integer", "nullable": True},
    "distance": {"type": "number", "max": 100},
}
SOURCE = specs.Source.model_validate(
    {
        "metadata": {"name": "asks"},
        "spec": {"key": "trip", "event_time": "at", "lateness": "2h", "fields": FIELDS},
    }
)
MODEL = specs.Model.model_validate(
    {
        "metadata": {"name": "minutes"},
        "spec": {
            "task": "regression",
            "source": "asks",
            "features": ["request.distance"],
            "label": {"source": "asks", "on": "trip", "value": "distance", "within": "4h"},
            "trainer": {"window": "60d"},
            "rollout": {"cap": 60},
        },
    }
)
ASKED = {"file": "d", "model": "minutes", "version": 0, "reading": {}}


def scorer(*classes: str) -> Scorer:
    version = VersionRef(number=3, features=["request.distance"], classes=classes)
    return Scorer(cast(Any, None), MODEL, SOURCE, version, {}, {})


def read(*rows: dict[str, Any]) -> list[Read]:
    typing, it = Typing(SOURCE.spec, Reading()), scorer()
    return [it.read(Row(at, row), typing) for at, row in enumerate(rows, start=1)]


def a_row(number: int, **fields: Any) -> dict[str, Any]:
    return {"trip": f"t{number}", "at": "2024-01-01T12:00:00Z", "distance": float(number), **fields}


def said(rows: Sequence[Read]) -> list[Said]:
    return [Said(row.fields["distance"] * 2) for row in rows if not row.fault]


def test_a_row_that_cannot_be_read_has_its_place_and_every_field_that_is_wrong() -> None:
    rows = read(a_row(1), a_row(2, distance="far", at="yesterday"), a_row(3, trip=None), a_row(4))

    answers = answers_of(scorer(), rows, said(rows)).to_pylist()

    assert [each["row"] for each in answers] == [1, 2, 3, 4]
    assert [each["trip"] for each in answers] == ["t1", "t2", None, "t4"]
    assert [each["prediction"] for each in answers] == [2, None, None, 8]
    assert [each["version"] for each in answers] == [3, None, None, 3]
    assert "'far' is no number" in answers[1]["error"] and "'yesterday' is no time" in answers[1]["error"]
    assert "trip None" in answers[2]["error"]


def test_a_version_of_classes_is_told_by_name_with_the_chance_of_each() -> None:
    it, rows = scorer("low", "high"), read(a_row(1))

    [answer] = answers_of(it, rows, [Said("high", [0.25, 0.75])]).to_pylist()

    assert (answer["prediction"], answer["probability.low"], answer["probability.high"]) == (
        "high",
        0.25,
        0.75,
    )


def test_what_a_crash_left_behind_the_part_is_cut_off_and_no_row_is_twice(tmp_path: Path) -> None:
    rows, output = read(*[a_row(n) for n in range(1, 7)]), tmp_path / "out.csv"
    part = Part.begin(output, ASKED)
    part.version = 3
    part.add(answers_of(scorer(), rows[:2], said(rows[:2])), 2)
    with part.path.open("ab") as file:
        file.write(b"half of the answers to rows 3 and 4")

    again = Part.begin(output, ASKED)
    assert (again.rows, again.version) == (2, 3)
    for start in (2, 4):
        again.add(answers_of(scorer(), rows[start : start + 2], said(rows[start : start + 2])), start + 2)
    again.finish(schema_of(scorer()))

    written = pyarrow.csv.read_csv(output).to_pylist()
    assert [(each["row"], each["trip"], each["prediction"]) for each in written] == [
        (n, f"t{n}", 2.0 * n) for n in range(1, 7)
    ]
    assert [path.name for path in tmp_path.iterdir()] == ["out.csv"]


def test_a_part_of_another_file_or_version_is_not_gone_on_with(tmp_path: Path) -> None:
    rows, output = read(a_row(1)), tmp_path / "out.csv"
    Part.begin(output, ASKED).add(answers_of(scorer(), rows, said(rows)), 1)

    with pytest.raises(Conflict, match="another file, version: run that one again, or remove"):
        Part.begin(output, ASKED | {"file": "e", "version": 2})


@pytest.mark.parametrize("name", ["out.csv", "out.jsonl", "out.parquet"])
def test_every_format_has_the_same_rows_also_where_there_are_none(tmp_path: Path, name: str) -> None:
    rows, output = read(a_row(1), a_row(2, distance="far")), tmp_path / name
    whole = Part.begin(output, ASKED)
    whole.add(answers_of(scorer(), rows, said(rows)), 2)
    whole.finish(schema_of(scorer()))

    written = contents(output)
    assert [(each["row"], each["trip"], each.get("prediction")) for each in written] == [
        (1, "t1", 2),
        (2, "t2", None),
    ]

    Part.begin(output, ASKED).finish(schema_of(scorer()))
    assert contents(output) == []


def test_an_output_that_cannot_be_written_is_refused_before_anything_is_asked() -> None:
    with pytest.raises(Rejected, match="there is no folder nowhere: make it"):
        form_of(Path("nowhere/out.csv"))
    with pytest.raises(Rejected, match=r"'out.xlsx' says no format that is written"):
        form_of(Path("out.xlsx"))


def test_rows_come_in_chunks_from_where_the_part_ends() -> None:
    def rows() -> Iterator[Row]:
        return (Row(n, a_row(n)) for n in range(1, 12_001))

    found = [
        [row.number for row in chunk]
        for chunk in chunks(rows(), scorer(), Typing(SOURCE.spec, Reading()), 4_000)
    ]

    assert [len(each) for each in found] == [5_000, 3_000]
    assert [number for chunk in found for number in chunk] == list(range(4_001, 12_001))


def contents(output: Path) -> list[dict[str, Any]]:
    if output.suffix == ".jsonl":
        return [json.loads(line) for line in output.read_text().splitlines()]
    table = pq.read_table(output) if output.suffix == ".parquet" else pyarrow.csv.read_csv(output)
    found: list[dict[str, Any]] = table.to_pylist()
    return found
