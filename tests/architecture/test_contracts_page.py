"""docs/contracts.md names every key, unit, statistic and reason code that there is, and no other."""

import re
from pathlib import Path

import pytest
import yaml
from trimtab import project
from trimtab_core.cleaning import Operation
from trimtab_core.contract import ReasonCode
from trimtab_core.specs import Expect, FieldSpec, SourceSpec
from trimtab_core.units import DIMENSIONS

PAGE = (Path(__file__).parents[2] / "docs/contracts.md").read_text()


def listed(heading: str, column: int) -> list[str]:
    """Return what stands in backticks in a column of the table whose first heading is `heading`."""
    (table,) = re.findall(rf"^\| {heading} \|.*\n\|[-|]+\n((?:\|.*\n)+)", PAGE, re.MULTILINE)
    cells = [row.split("|")[column] for row in table.splitlines()]
    return [word for cell in cells for word in re.findall(r"`([^`]+)`", cell)]


@pytest.mark.parametrize(
    ("heading", "column", "there_are"),
    [
        ("code", 1, list(ReasonCode)),
        ("statistic", 1, list(Expect.model_fields)),
        ("dimension", 2, [unit for units in DIMENSIONS.values() for unit in units]),
    ],
)
def test_a_table_lists_what_there_is(heading: str, column: int, there_are: list[str]) -> None:
    assert sorted(listed(heading, column)) == sorted(there_are)


def test_every_key_of_a_source_and_a_field_is_explained() -> None:
    tables = re.findall(r"^\| key \|.*\n\|[-|]+\n((?:\|.*\n)+)", PAGE, re.MULTILINE)
    explained = [
        {word for row in table.splitlines() for word in re.findall(r"`([^`]+)`", row.split("|")[1])}
        for table in tables
    ]

    assert explained == [set(SourceSpec.model_fields), set(FieldSpec.model_fields)]


def test_every_operation_of_cleaning_is_named_as_its_metric() -> None:
    assert set(re.findall(r"`cleaned_(\w+)`", PAGE)) == set(Operation)


def test_the_example_is_a_source() -> None:
    (example,) = re.findall(r"```yaml\n(.*?)```", PAGE, re.DOTALL)

    assert yaml.safe_load(example)["metadata"]["name"] == "pickups"
    assert project.parse(example).resources[0].key == "Source/pickups"
