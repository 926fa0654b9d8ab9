"""Whether documents can be applied: each by itself, and all together with what is applied.

Every fault of a request is found at once. A change is held against all that leans on
it, so an applied spec is never broken by a later one.
"""

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pydantic import ValidationError
from trimtab_core import chains, evolution, specs
from trimtab_core.conditions import compile_condition
from trimtab_core.durations import format_duration
from trimtab_core.features import (
    ExpressionFeature,
    Feature,
    FeatureFault,
    TextFeature,
    nearest,
    resolve,
    tables_named,
    views_named,
)
from trimtab_core.syntax import TextFault
from trimtab_runtime.errors import Fault

from trimtab_registry.usecases.entities import Applied, Document

Spec = specs.AnyResource

_NUMERIC = ("integer", "number")


def digest(document: Document) -> str:
    """Return the sha256 of a document in canonical JSON."""
    return hashlib.sha256(json.dumps(document, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def read(documents: Sequence[Document]) -> tuple[dict[str, Spec], list[Fault], set[str]]:
    """Return the specs in `documents` by kind/name, the faults of the others, and what the others are called."""
    read: dict[str, Spec] = {}
    faults: list[Fault] = []
    unreadable: set[str] = set()
    for document in documents:
        kind: Any = document.get("kind")
        called = specs.called(document)
        if said := specs.kind_fault(kind):
            faults.append(Fault(called, "kind", said))
            continue
        try:
            spec = specs.parse(kind, dict(document))
        except ValidationError as error:
            unreadable.add(called)
            faults += [
                Fault(called, ".".join(map(str, place)), sentence)
                for place, sentence in specs.faults(error, kind, document)
            ]
            continue
        if spec.key in read:
            faults.append(
                Fault(called, "metadata.name", f"{spec.name!r} is in two documents: keep one of them")
            )
        read[spec.key] = spec
    return read, faults, unreadable


@dataclass(frozen=True, slots=True)
class World:
    """All specs as they would be."""

    sources: Mapping[str, specs.Source]
    views: Mapping[str, specs.FeatureView]
    tables: Mapping[str, specs.Table]
    models: Mapping[str, specs.Model]
    tests: Mapping[str, specs.ModelTest]
    unreadable: frozenset[str] = frozenset()
    """What the request also holds, but cannot be read: a reference to it is no further fault."""

    @classmethod
    def of(
        cls, applied: Mapping[str, Applied], wanted: Mapping[str, Spec], unreadable: set[str] | None = None
    ) -> "World":
        """Lay `wanted` over what is applied."""
        all_specs = {key: specs.read_back(held.kind, held.document)[0] for key, held in applied.items()}
        all_specs |= wanted
        return cls(
            {spec.name: spec for spec in all_specs.values() if isinstance(spec, specs.Source)},
            {spec.name: spec for spec in all_specs.values() if isinstance(spec, specs.FeatureView)},
            {spec.name: spec for spec in all_specs.values() if isinstance(spec, specs.Table)},
            {spec.name: spec for spec in all_specs.values() if isinstance(spec, specs.Model)},
            {spec.name: spec for spec in all_specs.values() if isinstance(spec, specs.ModelTest)},
            frozenset(unreadable or ()),
        )

    def made(self) -> list[Spec]:
        """Return all that has topics of its own."""
        return [*self.sources.values(), *self.views.values(), *self.tables.values()]

    def faults(self, changed: set[str]) -> list[Fault]:
        """Return what does not fit together in `changed` (kind/name) or in what leans on it."""
        found: list[Fault] = []
        for source in self.sources.values():
            if source.key in changed:
                found += self._name_faults(source)
            if source.spec.predictions_of is not None:  # what changes may lie far up the chain
                found += self._chain_faults(source, source.spec.predictions_of)
        for view in self.views.values():
            if changed & {view.key, f"Source/{view.spec.source}"}:
                found += self._view_faults(view)
        for model in self.models.values():
            if changed & self._leans_on(model):
                found += self._model_faults(model)
        for test in self.tests.values():
            if changed & {test.key, f"Model/{test.spec.model}"}:
                found += self._test_faults(test)
        return found

    def leaning_on(self, key: str) -> list[str]:
        """Return the sources, views, models and tests (kind/name) that lean on a resource."""
        views = [view.key for view in self.views.values() if f"Source/{view.spec.source}" == key]
        models = [model.key for model in self.models.values() if key in self._leans_on(model) - {model.key}]
        tests = [test.key for test in self.tests.values() if f"Model/{test.spec.model}" == key]
        sources = [
            source.key for source in self.sources.values() if f"Model/{source.spec.predictions_of}" == key
        ]
        return sorted([*views, *models, *tests, *sources])

    def partitions(self, source: str) -> int:
        """Return the partitions of a source's topics."""
        return self.sources[source].spec.partitions

    def _leans_on(self, model: specs.Model) -> set[str]:
        views = set().union(*map(views_named, model.spec.features))
        upstream = {self.views[view].spec.source for view in views if view in self.views}
        return {
            model.key,
            f"Source/{model.spec.source}",
            f"Source/{model.spec.label.source}",
            *(f"FeatureView/{view}" for view in views),
            *(f"Source/{source}" for source in upstream),
            *(f"Table/{table}" for feature in model.spec.features for table in tables_named(feature)),
        }

    def _chain_faults(self, source: specs.Source, name: str) -> Iterator[Fault]:
        """Yield what a source of predictions says otherwise than the model that makes them."""
        at, model = source.key, self.models.get(name)
        if model is None:
            if f"Model/{name}" not in self.unreadable:
                known = ", ".join(sorted(self.models)) or "none is applied"
                said = f"{name!r} is no model: apply it too, or name one of: {known}"
                yield Fault(at, "spec.predictions_of", said)
            return
        if circle := self._circle(source):
            said = f"{name!r} would be made of its own predictions ({' → '.join(circle)}): let it take no such source"
            yield Fault(at, "spec.predictions_of", said)
        elif (scored := self.sources.get(model.spec.source)) is not None:
            yield from in_spec(at, chains.disagreements(source.spec, model.spec, scored.spec))

    def _circle(self, source: specs.Source) -> list[str]:
        """Return how a source of predictions comes to be made of itself: sources and models by turns; nothing, if it does not."""
        ahead, seen = [[source.name]], set[str]()
        while ahead:
            path = ahead.pop()
            if len(path) > 1 and path[-1] == source.name:
                return path
            here = self.sources.get(path[-1])
            model = self.models.get(here.spec.predictions_of or "") if here else None
            if model is None or path[-1] in seen:
                continue
            seen.add(path[-1])
            upstream = sorted(
                key.removeprefix("Source/") for key in self._leans_on(model) if key.startswith("Source/")
            )
            ahead += [[*path, model.name, name] for name in upstream]
        return []

    def _name_faults(self, source: specs.Source) -> Iterator[Fault]:
        twin = next(
            (name for name in self.sources if name != source.name and _alike(name, source.name)), None
        )
        if twin is not None:
            said = (
                f"{source.name!r} and {twin!r} are one name to Kafka, which takes . and _ for the same: "
                "choose another"
            )
            yield Fault(source.key, "metadata.name", said)

    def _view_faults(self, view: specs.FeatureView) -> Iterator[Fault]:
        at, spec = view.key, view.spec
        yield from self._unknown_source(at, "spec.source", spec.source)
        if spec.source not in self.sources:
            return
        fields = self.sources[spec.source].spec.fields
        yield from self._keep_fault(at, "spec.ttl", spec.source, spec.ttl, "the ttl is")
        for entity in spec.entities:
            yield from _no_name(at, "spec.entity", entity, spec.source, fields)
        for index, aggregate in enumerate(spec.aggregates):
            path = f"spec.aggregates.{index}"
            yield from _unknown_field(at, f"{path}.field", aggregate.field, spec.source, fields)
            if aggregate.field in fields and fields[aggregate.field].type not in _NUMERIC:
                yield from _counting_only(at, path, aggregate, fields[aggregate.field].type)
            if aggregate.where is not None:
                try:
                    compile_condition(aggregate.where, {name: field.type for name, field in fields.items()})
                except TextFault as fault:
                    yield Fault(at, f"{path}.where", str(fault))

    def _model_faults(self, model: specs.Model) -> Iterator[Fault]:
        at, spec = model.key, model.spec
        yield from self._unknown_source(at, "spec.source", spec.source)
        yield from self._unknown_source(at, "spec.label.source", spec.label.source)
        source, truth = self.sources.get(spec.source), self.sources.get(spec.label.source)
        for held in {held.name: held for held in (source, truth) if held is not None}.values():
            yield from _no_name(at, "spec.label.on", spec.label.on, held.name, held.spec.fields)
        if truth is not None:
            yield from _label_faults(at, spec.label, truth)
        if source is not None:
            yield from self._slice_faults(model, source)
            yield from self._feature_faults(model, source)
        yield from self._window_faults(model)
        for name in ("wheel", "lock"):
            file = getattr(spec.trainer, name)
            if file is not None and not specs.PINNED.fullmatch(file):
                said = f"{file!r} is a path: `trimtab apply` sends the file, and names it by its digest"
                yield Fault(at, f"spec.trainer.{name}", said)

    def _window_faults(self, model: specs.Model) -> Iterator[Fault]:
        """Yield the sources that do not keep what the model's training rows are made of."""
        spec = model.spec
        reach = dict.fromkeys((spec.label.source, spec.source), (spec.trainer.window, ""))
        for name in sorted(set().union(*map(views_named, spec.features)) & self.views.keys()):
            view = self.views[name].spec
            longest = max(window for aggregate in view.aggregates for window in aggregate.windows)
            whole = spec.trainer.window + longest
            if whole > reach.get(view.source, (0, ""))[0]:
                reach[view.source] = whole, f", with the longest window of view {name!r},"
        for source, (ms, why) in reach.items():
            said = f"training rows reach back{why}"
            yield from self._keep_fault(model.key, "spec.trainer.window", source, ms, said)

    def _keep_fault(self, at: str, path: str, source: str, ms: int, said: str) -> Iterator[Fault]:
        keep = self.sources[source].spec.keep if source in self.sources else None
        if keep is not None and ms > keep:
            yield Fault(
                at,
                path,
                f"{said} {format_duration(ms)}, and source {source!r} keeps its events for {format_duration(keep)}: "
                "shorten the one or raise the other's keep",
            )

    def _slice_faults(self, model: specs.Model, source: specs.Source) -> Iterator[Fault]:
        for index, gate in enumerate(model.spec.gates):
            for key in ("slices", "fairness"):
                if (name := getattr(gate, key, None)) is not None:
                    path = f"spec.gates.{index}.{key}"
                    yield from _unknown_field(model.key, path, name, source.name, source.spec.fields)
        for index, asked in enumerate(model.spec.monitoring.fairness):
            path = f"spec.monitoring.fairness.{index}.fairness"
            yield from _unknown_field(model.key, path, asked.fairness, source.name, source.spec.fields)

    def _feature_faults(self, model: specs.Model, source: specs.Source) -> Iterator[Fault]:
        views = {name: view.spec for name, view in self.views.items()}
        tables = {name: table.spec for name, table in self.tables.items()}
        faulty = False
        for index, text in enumerate(model.spec.features):
            named = {f"FeatureView/{view}" for view in views_named(text)}
            if self.unreadable & (named | {f"Table/{table}" for table in tables_named(text)}):
                continue
            try:
                resolve([text], source.spec, views, tables)
            except FeatureFault as fault:
                faulty = True
                yield Fault(model.key, f"spec.features.{index}", str(fault))
        if not faulty and not self.unreadable:
            try:
                resolve(model.spec.features, source.spec, views, tables)
            except FeatureFault as fault:
                yield Fault(model.key, "spec.features", str(fault))

    def _test_faults(self, test: specs.ModelTest) -> Iterator[Fault]:
        """Yield what a test names that its model has not, and changes that would leave a feature behind."""
        model = self.models.get(test.spec.model)
        if model is None:
            if f"Model/{test.spec.model}" not in self.unreadable:
                known = ", ".join(sorted(self.models)) or "none is applied"
                said = f"{test.spec.model!r} is no model: apply it too, or name one of: {known}"
                yield Fault(test.key, "spec.model", said)
            return
        try:
            source = self.sources[model.spec.source].spec
            views = {name: view.spec for name, view in self.views.items()}
            tables = {name: table.spec for name, table in self.tables.items()}
            features = resolve(model.spec.features, source, views, tables)
        except (KeyError, FeatureFault):
            return  # it is a fault of the model, and told as that
        known_names = [feature.name.partition(" = ")[0] for feature in features]
        for place, names in test.spec.named:
            path = ".".join(map(str, ("spec", *place)))
            for name in names:
                if name.partition(" = ")[0] not in known_names:
                    said = f"{name!r} is no feature of model {model.name!r}: {nearest(name, known_names)}"
                    yield Fault(test.key, path, said)
            if place[-1] == "change":
                yield from _left_behind(test.key, path, names, features)
        texts = {feature.name for feature in features if isinstance(feature, TextFeature)}
        yield from in_spec(
            test.key,
            test.spec.disagreements(texts, set(known_names) - texts, model.spec.label.classes),
        )

    def _unknown_source(self, at: str, path: str, name: str) -> Iterator[Fault]:
        if name not in self.sources and f"Source/{name}" not in self.unreadable:
            known = ", ".join(sorted(self.sources)) or "none is applied"
            yield Fault(at, path, f"{name!r} is no source: apply it too, or name one of: {known}")


def _left_behind(at: str, path: str, changed: Sequence[str], features: Sequence[Feature]) -> Iterator[Fault]:
    """Yield the features that are computed from one that a test changes, and that it does not change as well."""
    for feature in features:
        if not isinstance(feature, ExpressionFeature):
            continue
        short = feature.name.partition(" = ")[0]
        for read in feature.inputs:
            if read.name in changed and short not in changed:
                said = (
                    f"{read.name!r} is changed, and {short!r}, which is computed from it, is not: change both"
                )
                yield Fault(at, path, said)


def _label_faults(at: str, label: specs.LabelSpec, truth: specs.Source) -> Iterator[Fault]:
    """Yield why the label's value is not what its task reads: a number or boolean, or a class."""
    fields, value = truth.spec.fields, label.value
    field = fields.get(value)
    if field is None:
        yield from _unknown_field(at, "spec.label.value", value, truth.name, fields)
        return
    if not label.classes:
        if field.type not in specs.NUMERIC:  # true counts as 1, false as 0
            said = f"{value!r} is a {field.type} in source {truth.name!r}: name an integer or number field"
            remedy = ", or say in label.classes what it can be" if field.type == "string" else ""
            yield Fault(at, "spec.label.value", said + remedy)
        return
    if field.type not in specs.KEY_TYPES:
        said = f"{value!r} is a {field.type} in source {truth.name!r}, and a class is a string or an integer"
        yield Fault(at, "spec.label.value", f"{said}: name such a field, or remove label.classes")
    allowed = [str(each) for each in field.enum or ()]
    for index, name in enumerate(label.classes):
        if allowed and name not in allowed:
            said = f"{name!r} is none of {', '.join(allowed)}, which is all that {value!r} can be: mend it, or remove it"
            yield Fault(at, f"spec.label.classes.{index}", said)


def _counting_only(at: str, path: str, aggregate: specs.Aggregate, kind: str) -> Iterator[Fault]:
    for index, function in enumerate(aggregate.functions):
        if function not in specs.COUNTING:
            yield Fault(
                at,
                f"{path}.functions.{index}",
                f"{function!r} is of numbers, and {aggregate.field!r} is a {kind}: name an integer or number field, "
                f"or write {', '.join(sorted(specs.COUNTING))}",
            )


def broken(applied: Mapping[str, Applied], wanted: Mapping[str, Spec]) -> list[Fault]:
    """Return what `wanted` breaks of the contracts that are applied, or of the histories of tables."""
    found = []
    for key, spec in wanted.items():
        if (held := applied.get(key)) is None:
            continue
        match specs.read_back(spec.kind, held.document)[0], spec:
            case specs.Source() as was, specs.Source() as now:
                found += in_spec(key, evolution.breaking(was.spec, now.spec))
            case specs.Table() as was, specs.Table() as now:
                found += in_spec(key, evolution.unlike(was.spec, now.spec))
            case specs.Model() as was, specs.Model() as now:
                found += in_spec(key, evolution.renumbered(was.spec, now.spec))
    return found


def in_spec(key: str, found: Iterable[tuple[specs.Place, str]]) -> list[Fault]:
    """Return the faults of a resource whose places are within its spec."""
    return [Fault(key, ".".join(map(str, ("spec", *place))), said) for place, said in found]


def _alike(one: str, other: str) -> bool:
    return one.replace(".", "_") == other.replace(".", "_")


def _no_name(
    at: str, path: str, name: str, source: str, fields: Mapping[str, specs.FieldSpec]
) -> Iterator[Fault]:
    """Yield why a field names nothing that rows are found by."""
    yield from _unknown_field(at, path, name, source, fields)
    if name in fields and fields[name].type == "timestamp":
        yield Fault(
            at,
            path,
            f"{name!r} is a timestamp in source {source!r}, and an instant is written in many ways, so no row is found "
            "by one: name a field of another type, or declare it a string",
        )


def _unknown_field(
    at: str,
    path: str,
    name: str,
    source: str,
    fields: Mapping[str, specs.FieldSpec],
) -> Iterator[Fault]:
    if name not in fields:
        yield Fault(
            at,
            path,
            f"{name!r} is no field of source {source!r}: declare it there, or name another field",
        )
