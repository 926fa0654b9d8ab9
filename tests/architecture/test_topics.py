"""Every service hears what the table of topics says that it hears, and names no other topic.

A door says what it hears as `HEARS` (as a group) and `FOLLOWS` (as everyone), or with
`subscriptions`, which the bus runs as a group.
"""

import ast
import importlib
import inspect
import re
from pathlib import Path
from unittest.mock import Mock

import pytest
from trimtab_contracts import topics
from trimtab_contracts.topics import How

ROOT = Path(__file__).parents[2]
PACKAGES = {
    path.parent.name: path.parent / f"trimtab_{path.parent.name}"
    for path in ROOT.glob("services/*/pyproject.toml")
}
BY_THE_RUNTIME = {topics.SPECS.name, topics.DEADLETTER.name, topics.METRICS_QUALITY.name}
MADE_BY_THE_REGISTRY = {topic.name for topic in topics.ALL if topic.is_family}


def doors(service: str) -> list[str]:
    """Return the modules of a service that say what they hear."""
    says = re.compile(r"^(HEARS = |FOLLOWS = |def subscriptions\()", re.MULTILINE)
    return [path.stem for path in sorted(PACKAGES[service].glob("*.py")) if says.search(path.read_text())]


def heard(service: str) -> dict[str, How]:
    found: dict[str, How] = {}
    for door in doors(service):
        module = importlib.import_module(f"trimtab_{service}.{door}")
        found |= {topic.name: How.SHARED for topic in getattr(module, "HEARS", ())}
        found |= {topic.name: How.EVERYONE for topic in getattr(module, "FOLLOWS", ())}
        if subscriptions := getattr(module, "subscriptions", None):
            subscribed = subscriptions(*(Mock() for _ in inspect.signature(subscriptions).parameters))
            found |= {subscription.topic.name: How.SHARED for subscription in subscribed}
    if "SpecBook" in (PACKAGES[service] / "app.py").read_text():
        found[topics.SPECS.name] = How.EVERYONE
    return found


def named(service: str) -> set[str]:
    """Return the topics that a service's code names at all, to hear them or to write to them."""
    names = {
        node.attr
        for path in PACKAGES[service].rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "topics"
    }
    return {topic.name for name in names if isinstance(topic := getattr(topics, name), topics.Topic)}


@pytest.mark.parametrize("service", PACKAGES)
def test_a_service_hears_exactly_what_the_table_says(service: str) -> None:
    assert heard(service) == {
        topic.name: dict(topic.readers)[service] for topic in topics.ALL if service in dict(topic.readers)
    }


@pytest.mark.parametrize("service", PACKAGES)
def test_a_service_names_exactly_the_topics_that_the_table_gives_it(service: str) -> None:
    given = {
        topic.name for topic in topics.ALL if service in topic.producers or service in dict(topic.readers)
    }
    if service == "registry":
        given |= MADE_BY_THE_REGISTRY

    assert named(service) | BY_THE_RUNTIME == given | BY_THE_RUNTIME


def test_the_table_knows_every_service_and_nobody_else_but_people() -> None:
    people = {"producers", "applications", "operators", "analysts", "compliance"}
    told = {who for topic in topics.ALL for who in (*topic.producers, *dict(topic.readers))}

    assert told - people == set(PACKAGES)
    assert all(topics.heard_by(service) for service in PACKAGES)


def test_no_two_topics_have_one_name() -> None:
    assert len({topic.name for topic in topics.ALL}) == len(topics.ALL)
