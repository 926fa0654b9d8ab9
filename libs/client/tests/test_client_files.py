"""Reading a user's file and typing its values: what is there is what is sent, whatever it looks like."""

import gzip
import json
import os
from collections.abc import Sequence
from datetime import UTC, date, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from trimtab.files import BadFile, File, Row, _Pipe
from trimtab.ingest import Job, ready
from trimtab.typed import Reading, Typing
from trimtab_contracts.topics import MOST_ROW_BYTES
from trimtab_core.contract import compile_contract
from trimtab_core.specs import Source, SourceSpec, parse
from trimtab_runtime.errors import NotFound, Rejected


def a_spec() -> SourceSpec:
    fields = {
        "id": {"type": "string"},
        "at": {"type": "timestamp", "timezone": "Europe/Zurich"},
        "n": {"type": "integer", "nullable": True},
        "co_gt": {"type": "number", "nullable": True},
        "ok": {"type": "boolean", "nullable": True},
    }
    source = parse(
        "Source",
        {
            "metadata": {"name": "s"},
            "spec": {"key": "id", "event_time": "at", "lateness": "1h", "fields": fields},
        },
    )
    assert isinstance(source, Source)
    return source.spec


def written(folder: Path, name: str, content: str | bytes) -> str:
    path = folder / name
    data = content.encode() if isinstance(content, str) else content
    path.write_bytes(gzip.compress(data) if name.endswith(".gz") else data)
    return str(path)


def read(path: str, **options: Any) -> list[dict[str, Any] | None]:
    return [row.fields for row in File(path, **options).rows()]


def typed(fields: dict[str, Any], **reading: Any) -> dict[str, Any]:
    return Typing(a_spec(), Reading(**reading)).fields(fields)


CSV = 'id,at,"co,gt"\n007,2020-01-01,\n"a ""b"",\nc",x,2.5\n\n,,\n8,y,1\n'


@pytest.mark.parametrize("name", ["a.csv", "a.csv.gz", "A.CSV"])
def test_a_csv_has_texts_and_none_where_a_cell_is_empty(tmp_path: Path, name: str) -> None:
    file = File(written(tmp_path, name, CSV))

    rows = list(file.rows())

    assert [row.fields for row in rows] == [
        {"id": "007", "at": "2020-01-01", "co,gt": None},
        {"id": 'a "b",\nc', "at": "x", "co,gt": "2.5"},
        {"id": "8", "at": "y", "co,gt": "1"},
    ]
    assert [row.number for row in rows] == [1, 2, 3]
    assert file.position == file.size > 0
    assert len(file.digest()) == 64


@pytest.mark.parametrize("mark", [";", "\t", "|"])
def test_what_parts_the_cells_is_seen_in_the_first_line(tmp_path: Path, mark: str) -> None:
    path = written(tmp_path, "a.csv", mark.join(['"a,b"', "c"]) + "\n" + mark.join(["1", "2,6"]) + "\n")

    assert read(path) == [{"a,b": "1", "c": "2,6"}]
    assert File(path).decimal_comma == (mark != "|")


def test_a_row_that_does_not_fit_its_header_is_not_guessed_at(tmp_path: Path) -> None:
    path = written(tmp_path, "a.csv", "\ufeffa,b,,a\n1\n1,2,,4,5\n1,2,3,4,,\n1,2,,,,\n")

    rows = list(File(path).rows())

    assert [row.fields for row in rows] == [
        {"a": "1", "b": None, "a_2": None},
        None,
        {"a": "1", "b": "2", "a_2": "4", "column_3": "3"},
        {"a": "1", "b": "2", "a_2": None},
    ]
    assert json.loads(rows[1].line) == ["1", "2", "", "4", "5"]
    (refused,) = compile_contract(a_spec()).check([rows[1].line], [0]).reasons  # type: ignore[arg-type]
    assert refused[0].code == "not_an_object"


def test_jsonl_is_kept_as_it_stands_where_nothing_in_it_changes(tmp_path: Path) -> None:
    lines = [b'{"id": "1",  "n": 3}', b'{"id": "2", "n": "3"}', b"{rubbish", b"[1]", b'"\xff"']
    path = written(tmp_path, "a.jsonl.gz", b"\xef\xbb\xbf" + b"\n\n".join(lines) + b"\n")

    typing = Typing(a_spec(), Reading())
    sent = [typing.typed(row, "")[1] for row in File(path).rows()]

    assert sent == [lines[0], b'{"id":"2","n":3}', *lines[2:]]


def test_columns_of_one_name_are_told_apart_in_parquet_as_in_csv(tmp_path: Path) -> None:
    columns = [pa.array([1, 2]), pa.array([3, 4]), pa.array([5, 6])]
    pq.write_table(pa.table(columns, names=["a", "a", "b"]), path := tmp_path / "a.parquet")

    assert [row.fields for row in File(str(path)).rows()] == [
        {"a": 1, "a_2": 3, "b": 5},
        {"a": 2, "a_2": 4, "b": 6},
    ]


def test_parquet_has_its_values_with_times_as_texts(tmp_path: Path) -> None:
    moment = datetime(2020, 1, 31, 5, 0, 0, 250_000)
    table = pa.table(
        {
            "id": pa.array(["a"]).dictionary_encode(),
            "at": pa.array([moment], pa.timestamp("ns")),
            "utc": pa.array([moment.replace(tzinfo=UTC)], pa.timestamp("us", "UTC")),
            "day": [date(2020, 1, 31)],
            "n": [None],
            "co_gt": [Decimal("1.50")],
            "ok": [True],
        }
    )
    pq.write_table(table, path := tmp_path / "a.parquet")

    (row,) = File(str(path)).rows()
    sent = Typing(a_spec(), Reading()).typed(row, "")[1]

    assert json.loads(sent) == {
        "id": "a", "at": "2020-01-31T05:00:00.250000", "utc": "2020-01-31T05:00:00.250000+00:00",
        "day": "2020-01-31", "n": None, "co_gt": 1.5, "ok": True,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("a.csv", b"a\ncaf\xe9\n", "byte 0xe9 in it is no utf-8: say which --encoding it has"),
        ("a.csv", b'a\n1\n"' + b"x" * (MOST_ROW_BYTES + 2), "line 3 is no CSV (field larger"),
        ("a.jsonl", b'[{"a": 1}]', "it is one JSON array: write an object a line"),
        ("a.parquet", b"PAR1 and so on", "it is no Parquet that can be read"),
    ],
)
def test_what_cannot_be_read_is_told_with_its_place(
    tmp_path: Path, name: str, content: bytes, said: str
) -> None:
    with pytest.raises(BadFile) as raised:
        read(written(tmp_path, name, content))

    assert str(raised.value).startswith(f"{tmp_path}/{name}: ")
    assert said in str(raised.value)


def test_an_archive_that_was_cut_gives_what_is_whole_of_it_and_says_so(tmp_path: Path) -> None:
    whole = gzip.compress(b"".join(b'{"n": %d}\n' % n for n in range(50_000)))
    (tmp_path / "a.jsonl.gz").write_bytes(whole[: len(whole) // 2])
    rows = []

    with pytest.raises(BadFile, match="the compressed data is broken"):
        rows.extend(row.number for row in File(str(tmp_path / "a.jsonl.gz")).rows())

    assert rows == list(range(1, len(rows) + 1))


def test_a_file_that_is_not_there_or_of_no_known_kind_is_told(tmp_path: Path) -> None:
    with pytest.raises(NotFound, match="there is no file"):
        File(str(tmp_path / "a.csv"))
    path = written(tmp_path, "a.xlsx", "")
    with pytest.raises(Rejected, match=r"the name 'a.xlsx' says no format that is read"):
        File(path)
    with pytest.raises(Rejected, match="--format 'xml' says no format"):
        File(path, "xml")
    with pytest.raises(Rejected, match="--encoding 'utf-9' is none that is known"):
        File(path, "csv", encoding="utf-9")


def test_a_row_that_no_record_can_hold_is_noted_and_the_others_go_on(tmp_path: Path) -> None:
    huge = json.dumps({"id": "x" * MOST_ROW_BYTES})
    path = written(tmp_path, "a.jsonl", f'{{"id": "1"}}\n{huge}\n{{"id": "3"}}\n')
    job = Job("s", "d" * 64)

    rows = list(ready(File(path).rows(), Typing(a_spec(), Reading()), lambda _: 0, job, after=0))

    assert [row.id for row in rows] == [job.id_of(1), job.id_of(3)]
    assert job.too_large == [2]


def test_a_pipe_says_when_nothing_is_there_and_ends_when_it_is_told_to() -> None:
    out, into = os.pipe()
    pipe = _Pipe(out)
    assert pipe.idle()

    os.write(into, b"one\ntwo\nthr")
    assert (pipe.readline(100), pipe.idle(), pipe.readline(100), pipe.idle()) == (
        b"one\n",
        False,
        b"two\n",
        True,
    )
    os.write(into, b"ee")
    os.close(into)
    assert (pipe.readline(100), pipe.readline(100), pipe.idle()) == (b"three", b"", False)
    os.close(out)

    out, into = os.pipe()
    pipe = _Pipe(out)
    pipe.stopped = True
    assert pipe.readline(100) == b""
    os.close(out)
    os.close(into)


@pytest.mark.parametrize(
    ("field", "cell", "value"),
    [
        ("id", "007", "007"),
        ("id", " a ", " a "),
        ("n", "007", 7),
        ("n", " 3.0 ", 3),
        ("n", "3.5", 3.5),
        ("n", "1_000", "1_000"),
        ("n", "1,000", "1,000"),
        ("n", "nan", "nan"),
        ("n", " ", None),
        ("n", "9223372036854775807", 2**63 - 1),
        ("n", "99999999999999999999", 1e20),
        ("co_gt", "1e999", "1e999"),
        ("n", None, None),
        ("n", 3, 3),
        ("co_gt", "1e3", 1000.0),
        ("co_gt", "-.5", -0.5),
        ("co_gt", "inf", "inf"),
        ("ok", "Yes", True),
        ("ok", "F", False),
        ("ok", "0", False),
        ("ok", "maybe", "maybe"),
        ("at", "2018-03-01 05:00:00", "2018-03-01 05:00:00"),
        ("at", "1519880400000", 1519880400000),
        ("at", "01.03.2018 05:00", "01.03.2018 05:00"),
        ("extra", "5", "5"),
    ],
)
def test_a_cell_becomes_what_the_contract_asks_for_or_stays_as_it_is(
    field: str, cell: Any, value: Any
) -> None:
    found = typed({field: cell})[field]

    assert (found, type(found)) == (value, type(value))


@pytest.mark.parametrize(
    ("cell", "formats", "value"),
    [
        ("01/03/2018 05:00", ["%d/%m/%Y %H:%M"], "2018-03-01T05:00:00"),
        ("01/03/2018", ["%d/%m/%Y %H:%M", "%d/%m/%Y"], "2018-03-01T00:00:00"),
        ("03/2018", ["%d/%m/%Y"], "03/2018"),
        ("2018-03-01", ["%Y-%d-%m"], "2018-03-01"),
        ("1519880400.5", ["s"], 1519880400500),
        (1519880400.5, ["s"], 1519880400500),
        ("1e300", ["s"], "1e300"),
        ("9" * 5000, ["s", "%Y"], "9" * 5000),
        ("01.03.2018 05:00 +0200", ["%d.%m.%Y %H:%M %z"], "2018-03-01T05:00:00+02:00"),
    ],
)
def test_a_time_format_makes_iso_of_what_the_contract_cannot_read(
    cell: Any, formats: Sequence[str], value: Any
) -> None:
    assert typed({"at": cell}, time_formats=formats) == {"at": value}


def test_columns_are_found_by_their_names_plain_names_and_what_they_are_mapped_to() -> None:
    fields = {"No": "1", "CO(GT)": "2,6", "Date": "10/03/2004", "Time": "18.00.00", "Ok": "no"}
    reading = {
        "columns": {"No": "id", "Date+Time": "at"},
        "time_formats": ["%d/%m/%Y %H.%M.%S"],
        "decimal_comma": True,
    }

    assert typed(fields, **reading) == {"id": "1", "co_gt": 2.6, "at": "2004-03-10T18:00:00", "ok": False}
    assert typed({**fields, "Time": None}, **reading)["at"] is None
    assert "at" not in typed({"Date": "10/03/2004"}, **reading)


def test_what_means_null_is_null_in_every_form_and_where_it_is_said() -> None:
    nulls = {"nulls": ["NA", "-200", "n=-1"]}

    assert typed({"n": "-200", "co_gt": "-200.0", "id": "NA"}, **nulls) == {
        "n": None,
        "co_gt": None,
        "id": None,
    }
    assert typed({"n": -200, "co_gt": -200.0, "ok": " NA"}, **nulls) == {"n": None, "co_gt": None, "ok": None}
    assert typed({"n": "-1", "co_gt": "-1"}, **nulls) == {"n": None, "co_gt": -1}


def test_a_rows_id_can_be_had_as_a_field() -> None:
    typing = Typing(a_spec(), Reading(row_id="id"))

    assert json.loads(typing.typed(Row(1, {"n": "2"}), "d/1")[1]) == {"n": 2, "id": "d/1"}


def test_options_that_name_nothing_are_told() -> None:
    for reading, said in (
        (Reading(columns={"a": "nosuch"}), "'a' is to fill 'nosuch', which is no field of the source"),
        (Reading(row_id="nosuch"), "'--row-id' is to fill 'nosuch'"),
        (Reading(time_formats=["%Q"]), "--time-format '%Q' is none"),
    ):
        with pytest.raises(Rejected, match=said):
            Typing(a_spec(), reading)
