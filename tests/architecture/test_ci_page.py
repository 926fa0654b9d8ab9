"""The snippets for CI are what CI servers read, and call commands and options that there are."""

import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer.main
import yaml
from trimtab.cli import app

PAGE = (Path(__file__).parents[2] / "docs/ci.md").read_text()
BLOCKS = re.findall(r"```(yaml|groovy)\n(.*?)```", PAGE, re.DOTALL)
CALLED = re.compile(r"trimtab (?:test|plan|apply|check post) [^\n'};]*")


def commands(text: str) -> list[str]:
    """Return the calls of ours in a snippet, as a shell would take them."""
    return CALLED.findall(text)


def test_there_is_a_snippet_for_each_server_and_each_validates_applies_and_posts() -> None:
    sections = re.split(r"^## ", PAGE, flags=re.MULTILINE)[1:]

    assert [section.partition("\n")[0] for section in sections] == [
        "GitHub Actions",
        "GitLab CI",
        "Jenkins",
        "CircleCI",
    ]
    for section in sections:
        for words in ("test project --junit", "plan project --markdown", "apply project", "check post"):
            assert f"trimtab {words}" in section, (section[:20], words)


@pytest.mark.parametrize("text", [text for kind, text in BLOCKS if kind == "yaml"])
def test_a_snippet_is_yaml_that_makes_jobs(text: str) -> None:
    content = yaml.safe_load(text)
    jobs = content.get("jobs") or {name: job for name, job in content.items() if "script" in job}

    assert jobs
    for name, job in jobs.items():
        steps = job.get("steps", job.get("script"))
        assert steps, name
        for step in steps:
            assert isinstance(step, str | dict), f"{name}: {step!r} is read as something else than a command"


def test_the_pipeline_of_jenkins_has_as_many_ends_as_beginnings() -> None:
    (text,) = [text for kind, text in BLOCKS if kind == "groovy"]
    bare = re.sub(r"'[^']*'|\"[^\"]*\"", "", text)

    for opened, closed in ("{}", "()"):
        assert bare.count(opened) == bare.count(closed)


@pytest.mark.parametrize("call", sorted({call for _, text in BLOCKS for call in commands(text)}))
def test_a_call_is_one_that_the_command_takes(call: str) -> None:
    words = [word for word in shlex.split(call)[1:] if not word.startswith("$said")]
    command: Any = typer.main.get_command(app)
    while hasattr(command, "commands"):
        command = command.commands[words.pop(0)]
    known = set(options(command))

    assert {word for word in words if word.startswith("--")} <= known


def options(command: Any) -> Iterator[str]:
    for parameter in command.params:
        yield from (*parameter.opts, *parameter.secondary_opts)
