"""The written pages name commands, files and pages that exist."""

import re
from pathlib import Path

import click
import pytest
import typer.main
from trimtab.cli import app

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_command_on_a_page_exists(page: Path) -> None:
    for words in re.findall(r"(?:^    +|`)trimtab((?: [a-z]+)+)", page.read_text(), re.MULTILINE):
        command: click.Command = typer.main.get_command(app)
        for word in words.split():
            if not isinstance(command, click.Group):
                break
            assert word in command.commands, f"`trimtab{words}`"
            command = command.commands[word]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_link_on_a_page_leads_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#\s]+)", page.read_text()):
        assert "://" in target or (page.parent / target).exists(), target
