"""What users have applied, as this process has read it from `specs`.

Every service but the registry follows the topic with one of these. A change is
seen whole: `on_change` hears of a resource after the book holds it.
"""

import logging
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, TypeVar

from google.protobuf import json_format
from trimtab_contracts import topics
from trimtab_contracts.registry.v1.registry_pb2 import Resource
from trimtab_core import specs

from trimtab_runtime.errors import NotFound
from trimtab_runtime.follow import Follower

T = TypeVar("T")
log = logging.getLogger(__name__)


class UnknownModel(NotFound):
    """No such model has been applied."""

    def __init__(self, name: str) -> None:
        super().__init__(f"there is no model {name!r}: apply its spec first, or look at `trimtab get models`")


class UnknownSource(NotFound):
    """No such source has been applied."""

    def __init__(self, name: str) -> None:
        super().__init__(
            f"there is no source {name!r}: apply its spec first, or look at `trimtab get sources`"
        )


class UnknownView(NotFound):
    """No such feature view has been applied."""

    def __init__(self, name: str) -> None:
        super().__init__(
            f"there is no feature view {name!r}: apply its spec first, or look at `trimtab get featureviews`"
        )


class UnknownTable(NotFound):
    """No such table has been applied."""

    def __init__(self, name: str) -> None:
        super().__init__(f"there is no table {name!r}: apply its spec first, or look at `trimtab get tables`")


class SpecBook:
    """Sources, feature views, tables, models and their tests by name, with the generation of each."""

    def __init__(self, on_change: Callable[[], Awaitable[None]] | None = None) -> None:
        self.sources: dict[str, specs.Source] = {}
        self.views: dict[str, specs.FeatureView] = {}
        self.tables: dict[str, specs.Table] = {}
        self.models: dict[str, specs.Model] = {}
        self.tests: dict[str, specs.ModelTest] = {}
        self.generations: dict[tuple[str, str], int] = {}
        self._on_change = on_change

    def follower(self, servers: str) -> Follower:
        """Return the follower that keeps this book; run it as a task."""
        return Follower(servers, [topics.SPECS.name], self._hear)

    def source(self, name: str) -> specs.Source:
        """Return a source, or raise `UnknownSource`."""
        return _get(self.sources, name, UnknownSource)

    def view(self, name: str) -> specs.FeatureView:
        """Return a feature view, or raise `UnknownView`."""
        return _get(self.views, name, UnknownView)

    def table(self, name: str) -> specs.Table:
        """Return a table, or raise `UnknownTable`."""
        return _get(self.tables, name, UnknownTable)

    def model(self, name: str) -> specs.Model:
        """Return a model, or raise `UnknownModel`."""
        return _get(self.models, name, UnknownModel)

    def tests_of(self, model: str) -> list[specs.ModelTest]:
        """Return the behavioural tests of a model, by name."""
        return [test for _, test in sorted(self.tests.items()) if test.spec.model == model]

    def generation(self, resource: specs.AnyResource) -> int:
        """Return how often the resource has been changed, from 1."""
        return self.generations.get((resource.kind, resource.name), 0)

    def put(self, resource: specs.AnyResource, generation: int = 1) -> None:
        """Hold `resource`, unless a newer generation of it is there."""
        place = (resource.kind, resource.name)
        if self.generations.get(place, 0) <= generation:
            self.generations[place] = generation
            self._shelf(resource.kind)[resource.name] = resource

    def remove(self, kind: str, name: str) -> None:
        """Forget a resource that was deleted."""
        self._shelf(kind).pop(name, None)
        self.generations.pop((kind, name), None)

    def _shelf(self, kind: str) -> dict[str, Any]:
        shelves: Mapping[str, dict[str, Any]] = {
            "Source": self.sources, "FeatureView": self.views, "Table": self.tables, "Model": self.models,
            "ModelTest": self.tests,
        }  # fmt: skip
        return shelves[kind]

    async def _hear(self, _: str, __: int, records: Sequence[Any]) -> None:
        for record in records:
            kind, _, name = record.key.decode().partition("/")
            try:
                if record.value is None:
                    self.remove(kind, name)
                    continue
                resource = topics.SPECS.decode(record.value)
                self.put(from_message(resource), resource.generation)
            except (ValueError, KeyError) as error:
                # One unreadable spec must not keep every other from being served.
                log.error("spec %s at offset %d cannot be read: %s", record.key, record.offset, error)
        if self._on_change is not None:
            await self._on_change()


def from_message(resource: Resource) -> specs.AnyResource:
    """Return the typed resource in a message, without what of its alert rules and monitoring this version refuses.

    Raises:
        ValueError, KeyError: the document is no such resource.
    """
    found, refused = specs.read_back(resource.kind, json_format.MessageToDict(resource.document))
    for place, said in refused:
        where = ".".join(map(str, place))
        log.error("%s is read without what is refused by now, apply it anew: %s: %s", found.key, where, said)
    return found


def _get(shelf: Mapping[str, T], name: str, missing: type[NotFound]) -> T:
    if name not in shelf:
        raise missing(name)
    return shelf[name]
