"""docs/alerts.md names every kind of alert, and no other."""

import re
from pathlib import Path

from trimtab_core.alertkinds import KINDS

PAGE = (Path(__file__).parents[2] / "docs/alerts.md").read_text()


def test_every_kind_of_alert_is_on_the_page() -> None:
    table = PAGE.split("## What alerts there are", 1)[1].split("\n## ", 1)[0]

    named = [
        name
        for row in re.findall(r"^\| `.*$", table, re.MULTILINE)
        for name in re.findall(r"`(\w+)`", row.split("|")[1])
    ]
    assert sorted(named) == sorted(KINDS)
