"""The written pages, and the messages in the code, name commands, files and pages that exist."""

import re
from pathlib import Path
from typing import Any

import pytest
import typer.main
from trimtab.cli import app

ROOT = Path(__file__).parents[2]
PAGES = [
    ROOT / "README.md",
    ROOT / "CONTRIBUTING.md",
    *sorted(ROOT.glob("*/*/README.md")),
    *sorted((ROOT / "docs").rglob("*.md")),
]
CODE = sorted({*ROOT.glob("*/*/trimtab*/**/*.py")})
COMMANDS: Any = typer.main.get_command(app)


def test_every_command_that_a_page_or_a_message_names_exists() -> None:
    told = {words: file for file in [*PAGES, *CODE] for words in named_in(file)}
    wrong = {words: str(file.relative_to(ROOT)) for words, file in told.items() if not exists(words)}

    assert len(told) > 20
    assert wrong == {}


def named_in(file: Path) -> list[str]:
    """Return the commands in backticks; in a page, those on an indented line too."""
    start = r"(?:^    +|`)" if file.suffix == ".md" else "`"
    return re.findall(rf"{start}trimtab((?: [a-z]+)+)", file.read_text(), re.MULTILINE)


def exists(words: str) -> bool:
    """Return whether `words` name a command, followed by whatever it takes."""
    command = COMMANDS
    for word in words.split():
        if not hasattr(command, "commands"):
            return True
        if word not in command.commands:
            return False
        command = command.commands[word]
    return True


@pytest.mark.parametrize("words", ["modl list", "model lst"])
def test_a_command_that_does_not_exist_is_seen(words: str) -> None:
    assert not exists(words)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_link_on_a_page_leads_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#\s]+)", page.read_text()):
        assert "://" in target or (page.parent / target).exists(), target


def test_every_page_is_linked_from_another_or_is_a_decision() -> None:
    linked = {
        (page.parent / target).resolve()
        for page in PAGES
        for target in re.findall(r"\]\(([^)#\s]+)", page.read_text())
        if "://" not in target
    }
    folders = {ROOT / "README.md", ROOT / "docs/decisions/README.md", ROOT / "docs/runbooks/README.md"}
    decisions = set((ROOT / "docs/decisions").glob("0*.md"))

    assert set(PAGES) - linked - folders - decisions == set()
