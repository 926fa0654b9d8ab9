"""A plan as Markdown: what a pull request's reviewers want to know before it is merged."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from trimtab_runtime.errors import Rejected

from trimtab.project import Fault

_MOST_LINES: Final = 200
"""A comment has a length that it may have; what is left out is counted."""
_LONGEST: Final = 200


def write(
    path: Path | None, changes: Sequence[Mapping[str, Any]], faults: Sequence[Fault], more: str = ""
) -> None:
    """Write the report to `path`, if there is one, with `more` under it.

    Raises:
        Rejected: the file cannot be written.
    """
    if path is None:
        return
    try:
        path.write_text(report(changes, faults) + more, encoding="utf-8")
    except OSError as error:
        raise Rejected(
            f"--markdown {path} cannot be written ({error.strerror}): name another file"
        ) from error


def report(changes: Sequence[Mapping[str, Any]], faults: Sequence[Fault]) -> str:
    """Return what applying would change, and why it cannot be done, as Markdown."""
    counts = {
        action: sum(each["action"] == action for each in changes)
        for action in ("created", "changed", "unchanged")
    }
    said = ", ".join(f"{count} {action}" for action, count in counts.items() if count) or "nothing is read"
    lines = [
        "## Trimtab plan",
        "",
        f"**It cannot be applied: {_times(len(faults), 'fault')}.**"
        if faults
        else f"It can be applied: {said}.",
    ]
    if faults:
        lines += ["", "| where | key | what is wrong |", "|---|---|---|"]
        lines += _some(
            [f"| {_code(_where(each))} | {_code(each.key)} | {_text(each.sentence)} |" for each in faults]
        )
    if rows := [row for change in changes if change["action"] != "unchanged" for row in _rows(change)]:
        lines += ["", "| | what | key | before | after |", "|---|---|---|---|---|", *_some(rows)]
    return "\n".join(lines) + "\n"


def _rows(change: Mapping[str, Any]) -> list[str]:
    sign = "new" if change["action"] == "created" else "changed"
    what = _code(f"{change['kind']}/{change['name']}")
    differences = change["differences"] or [{"key": "", "before": None, "after": None}]
    return [
        f"| {sign} | {what} | {_code(each['key'])} | {_value(each['before'])} | {_value(each['after'])} |"
        for each in differences
    ]


def _some(rows: list[str]) -> list[str]:
    left_out = len(rows) - _MOST_LINES
    return rows if left_out <= 0 else [*rows[:_MOST_LINES], f"\n… and {left_out} more: see `trimtab plan`"]


def _where(fault: Fault) -> str:
    return f"{fault.file}:{fault.line}" if fault.line else fault.file


def _value(value: Any) -> str:
    return "" if value is None else _code(json.dumps(value))


def _code(text: str) -> str:
    """Return a text as code in a table's cell, whatever is in it."""
    if not text:
        return ""
    short = text if len(text) <= _LONGEST else text[: _LONGEST - 1] + "…"
    return f"`{short.replace('`', chr(39)).replace('|', chr(92) + '|').replace(chr(10), ' ')}`"


def _text(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ").replace("<", "&lt;")


def _times(count: int, what: str) -> str:
    return f"{count} {what}" if count == 1 else f"{count} {what}s"
