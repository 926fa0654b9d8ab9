"""Applying specs: all documents of a request, or none.

A spec is published only after its Kafka topics exist, so that whoever hears of it can
read and write them at once. A document that is applied already changes nothing.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

from trimtab_core import specs
from trimtab_core.evolution import changed_columns, lost_columns
from trimtab_core.features import FeatureFault, names_read, table_column
from trimtab_runtime.clock import Clock
from trimtab_runtime.errors import Fault

from trimtab_registry.errors import (
    BadSpecs,
    ColumnsInUse,
    FixedPartitions,
    UnknownGeneration,
    UnknownResource,
    Unsigned,
)
from trimtab_registry.usecases import checks
from trimtab_registry.usecases.checks import Spec, World
from trimtab_registry.usecases.entities import Applied, Change, Document, Entry
from trimtab_registry.usecases.ports import Need, Provide, SchemaFaults, Store, Unit
from trimtab_registry.usecases.roles import Roles

_SAID = {"FeatureView": "view", "Table": "table"}


class Specs:
    """What users have declared."""

    def __init__(
        self, store: Store, provide: Provide, schema_faults: SchemaFaults, clock: Clock, roles: Roles
    ) -> None:
        self._store = store
        self._provide = provide
        self._schema_faults = schema_faults
        self._clock = clock
        self._roles = roles

    async def apply(
        self, documents: Sequence[Document], actor: str, *, validate_only: bool = False
    ) -> list[Change]:
        """Make `documents` the wanted state, and return what that changed, in their order.

        With `validate_only` nothing is changed, and what would be is returned.

        Raises:
            BadSpecs: some cannot be applied; it names every fault of every document, and every change of a source
                that breaks its producers or readers.
            FixedPartitions: a change needs other partitions in topics that exist.
            ColumnsInUse: a change takes features from versions that serve, or may serve at once.
            Unavailable: Kafka or PostgreSQL is away; nothing was applied.
        """
        if not actor:
            raise Unsigned("actor", "say who applies")
        wanted, faults, unreadable = checks.read(documents)
        for key, spec in wanted.items():
            if isinstance(spec, specs.Source):
                faults += checks.in_spec(key, await self._schema_faults(spec.spec))
        async with self._store.begin() as unit:
            applied = await unit.applied()
            world = World.of(applied, wanted, unreadable)
            faults += world.faults(set(wanted) | unreadable) + checks.broken(applied, wanted)
            faults += [
                fault
                for spec in wanted.values()
                if isinstance(spec, specs.Model)
                for fault in self._roles.faults(spec)
            ]
            if faults:
                raise BadSpecs(faults)
            changed = {key: spec for key, spec in wanted.items() if _is_new(applied.get(key), spec)}
            if clashes := _clashes(applied, changed, world):
                raise FixedPartitions(clashes)
            if held := await self._in_use(applied, changed):
                raise ColumnsInUse(held)
            changes = {
                key: _change(applied.get(key), spec, key in changed) or await _created(unit, spec)
                for key, spec in wanted.items()
            }
            if not validate_only:
                await self._provide(needs(changed.values(), world))
                for key, spec in changed.items():
                    await self._put(unit, spec, changes[key], actor)
            return list(changes.values())

    async def _put(self, unit: Unit, spec: Spec, change: Change, actor: str) -> None:
        document = specs.to_document(spec)
        generation, now = change.generation, self._clock.now_ms()
        digest = checks.digest(document)
        await unit.put(Applied(spec.kind, spec.name, generation, document, digest, actor, now))
        await unit.record(
            Entry(
                resource=spec.key,
                action=change.action,
                actor=actor,
                reason=f"generation {generation} was applied",
                at_ms=now,
                details={"generation": generation, "digest": digest},
            )
        )

    async def rebuild(self, name: str, actor: str, reason: str) -> Applied:
        """Begin a view's next generation, of the same spec, so that it is made anew from the archive.

        Raises:
            Unsigned: nobody asks.
            UnknownResource: there is no such view.
        """
        if not actor:
            raise Unsigned("actor", "say who asks for it")
        async with self._store.begin() as unit:
            held = (await unit.applied()).get(f"FeatureView/{name}")
            if held is None:
                raise UnknownResource("FeatureView", name)
            again = replace(
                held, generation=held.generation + 1, applied_by=actor, applied_at_ms=self._clock.now_ms()
            )
            await unit.put(again)
            await unit.record(
                Entry(
                    resource=again.key,
                    action="rebuilt",
                    actor=actor,
                    reason=reason or f"generation {again.generation} is made anew from the archive",
                    at_ms=again.applied_at_ms,
                    details={"generation": again.generation, "digest": again.digest},
                )
            )
        return again

    async def _in_use(self, applied: Mapping[str, Applied], changed: Mapping[str, Spec]) -> list[Fault]:
        """Return the columns that views and tables would lose, or that would mean something else, though a warm version takes them."""
        lost = {
            (spec.name, column): (spec, said)
            for key, spec in changed.items()
            if (held := applied.get(key)) is not None
            for column, said in _lost(specs.read_back(held.kind, held.document)[0], spec).items()
        }
        if not lost:
            return []
        views = [held.name for held in applied.values() if held.kind == "FeatureView"]
        tables = [held.name for held in applied.values() if held.kind == "Table"]
        faults = []
        for standing in await self._store.standings():
            for number, version in sorted((await self._store.named_by(standing)).items()):
                taken = version.candidate.document.get("features", [])
                faults += [
                    Fault(
                        spec.key,
                        "spec",
                        f"{column!r} is a feature of model {standing.model!r} version {number}, and {said}: keep it as "
                        f"it is and put the new one beside it, or in a {_SAID[spec.kind]} of another name",
                    )
                    for (_, column), (spec, said) in lost.items()
                    if any(_takes(feature, spec, column, views, tables) for feature in taken)
                ]
        return faults

    async def provide_all(self) -> None:
        """Make sure of the topics of everything that is applied."""
        world = World.of({held.key: held for held in await self._store.resources()}, {})
        await self._provide(needs(world.made(), world))

    async def get(self, kind: str, name: str, generation: int = 0) -> Applied:
        """Return a spec as applied, at present or in a generation.

        Raises:
            UnknownResource, UnknownGeneration: there is no such thing.
        """
        if generation:
            history = await self.history(kind, name)
            for held in history:
                if held.generation == generation:
                    return held
            raise UnknownGeneration(kind, name, generation, history[-1].generation)
        found = await self._store.resource(kind, name)
        if found is None:
            raise UnknownResource(kind, name)
        return found

    async def history(self, kind: str, name: str) -> Sequence[Applied]:
        """Return every generation of a spec, oldest first, those included that took it away.

        Raises:
            UnknownResource: there never was one.
        """
        found = await self._store.generations(kind, name)
        if not found:
            raise UnknownResource(kind, name)
        return found

    async def list(self, kind: str) -> Sequence[Applied]:
        """Return the specs of a kind, or of all."""
        return await self._store.resources(kind)


def needs(changed: Iterable[Spec], world: World) -> list[Need]:
    """Return what must exist before `changed` may be published; models and tests need nothing of their own."""
    return [
        Need(spec.kind, spec.name, _partitions(spec, world))
        for spec in changed
        if not isinstance(spec, specs.Model | specs.ModelTest)
    ]


def _partitions(spec: specs.Source | specs.FeatureView | specs.Table, world: World) -> int:
    match spec:
        case specs.Source():
            return spec.spec.partitions
        case specs.FeatureView():
            return world.partitions(spec.spec.source)
        case specs.Table():
            return 1  # a load is seen in its order


async def _created(unit: Unit, spec: Spec) -> Change:
    """Return the first generation of a spec, or the first after it was deleted."""
    return Change(spec.kind, spec.name, "created", await unit.last_generation(spec.kind, spec.name) + 1)


def _change(held: Applied | None, spec: Spec, is_new: bool) -> Change | None:
    if held is None:
        return None
    return Change(
        spec.kind,
        spec.name,
        *(("changed", held.generation + 1) if is_new else ("unchanged", held.generation)),
    )


def _lost(before: Spec, after: Spec) -> Mapping[str, str]:
    """Return the columns that a change takes from those who read them, and how."""
    match before, after:
        case specs.FeatureView() as was, specs.FeatureView() as now:
            return changed_columns(was.spec, now.spec)
        case specs.Table() as was, specs.Table() as now:
            return lost_columns(was.spec, now.spec)
    return {}


def _takes(feature: str, spec: Spec, column: str, views: Sequence[str], tables: Sequence[str]) -> bool:
    """Whether a feature, which may be an expression, takes a column of a view or table."""
    try:
        read = names_read(feature, views, tables)
    except FeatureFault:  # a view that came after it can make it mean nothing: rather refuse too much
        return spec.name in feature and column in feature
    if isinstance(spec, specs.Table):
        return (spec.name, column) in map(table_column, read)
    return f"{spec.name}.{column}" in read


def _is_new(held: Applied | None, spec: Spec) -> bool:
    return held is None or held.digest != checks.digest(specs.to_document(spec))


def _clashes(applied: Mapping[str, Applied], changed: Mapping[str, Spec], world: World) -> list[Fault]:
    """Return the changes that would need other partitions in topics that exist."""
    before = World.of(applied, {})
    existing = needs(before.made(), before)
    had = {(need.kind, need.name): need.partitions for need in existing}
    return [
        Fault(
            f"{need.kind}/{need.name}",
            "spec.partitions" if need.kind == "Source" else "spec.source",
            f"{need.partitions} partitions are asked for, where its topics have {had[need.kind, need.name]}: "
            "keep what it was, or apply it under another name",
        )
        for need in needs(changed.values(), world)
        if had.get((need.kind, need.name), need.partitions) != need.partitions
    ]
