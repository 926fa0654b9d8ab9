"""What has been applied, and what leans on what: the wide form of `trimtab get`."""

from collections.abc import Mapping, Sequence
from typing import Any

from trimtab_contracts.registry.v1.registry_pb2 import Resource
from trimtab_core import specs
from trimtab_core.durations import format_duration
from trimtab_core.features import tables_named, views_named

from trimtab.cli.session import plain


class Lineage:
    """All resources that have been applied."""

    def __init__(self, resources: Sequence[Resource]) -> None:
        parsed = [specs.read_back(each.kind, plain(each.document))[0] for each in resources]
        self._sources = {each.name: each for each in parsed if isinstance(each, specs.Source)}
        self._views = {each.name: each for each in parsed if isinstance(each, specs.FeatureView)}
        self._tables = {each.name: each for each in parsed if isinstance(each, specs.Table)}
        self._models = {each.name: each for each in parsed if isinstance(each, specs.Model)}

    def rows(self, kind: str) -> list[dict[str, Any]]:
        """Return a row for each resource of a kind."""
        shelves: Mapping[str, Sequence[dict[str, Any]]] = {
            "Source": [self._source(each) for each in self._sources.values()],
            "FeatureView": [self._view(each) for each in self._views.values()],
            "Table": [self._table(each) for each in self._tables.values()],
            "Model": [self._model(each) for each in self._models.values()],
        }
        return list(shelves[kind])

    def consumers(self, source: str) -> tuple[list[str], list[str]]:
        """Return the views that are made of a source, and the models that lean on it in any way."""
        views = [view.name for view in self._views.values() if view.spec.source == source]
        models = [
            model.name
            for model in self._models.values()
            if source in (model.spec.source, model.spec.label.source) or set(views) & set(self._of(model))
        ]
        return views, models

    def uses(self, model: str, source: str) -> list[str]:
        """Return what a model takes a source for: its rows, its label, features."""
        spec, views = self._models[model].spec, self.consumers(source)[0]
        taken = [view for view in self._of(self._models[model]) if view in views]
        return [
            *(["rows"] if spec.source == source else []),
            *(["label"] if spec.label.source == source else []),
            *([f"features of {', '.join(taken)}"] if taken else []),
        ]

    def _source(self, source: specs.Source) -> dict[str, Any]:
        views, models = self.consumers(source.name)
        return {
            "source": source.name,
            "key": source.spec.key,
            "event time": source.spec.event_time,
            "lateness": format_duration(source.spec.lateness),
            "fields": len(source.spec.fields),
            "predictions of": source.spec.predictions_of or "",
            "views": ", ".join(views),
            "models": ", ".join(models),
        }

    def _view(self, view: specs.FeatureView) -> dict[str, Any]:
        return {
            "view": view.name,
            "source": view.spec.source,
            "entity": _entity(view),
            "features": ", ".join(view.spec.columns()),
            "hop": format_duration(view.spec.hop),
            "ttl": format_duration(view.spec.ttl),
            "models": ", ".join(
                model.name for model in self._models.values() if view.name in self._of(model)
            ),
        }

    def _table(self, table: specs.Table) -> dict[str, Any]:
        spec = table.spec
        models = [model.name for model in self._models.values() if table.name in self._tables_of(model)]
        return {
            "table": table.name,
            "from": spec.parquet if spec.postgres is None else f"a query of {spec.postgres.connection}",
            "key": spec.key,
            "columns": ", ".join(spec.columns),
            "refresh": format_duration(spec.refresh),
            "models": ", ".join(models),
        }

    def _model(self, model: specs.Model) -> dict[str, Any]:
        return {
            "model": model.name,
            "task": model.spec.task,
            "source": model.spec.source,
            "views": ", ".join(self._of(model)),
            "tables": ", ".join(self._tables_of(model)),
            "features": ", ".join(model.spec.features),
            "label": f"{model.spec.label.source}.{model.spec.label.value}",
            "trainer": model.spec.trainer.kind,
            "predictions are events of": ", ".join(
                each.name for each in self._sources.values() if each.spec.predictions_of == model.name
            ),
        }

    def _of(self, model: specs.Model) -> list[str]:
        """Return the views whose features a model takes."""
        heads = [head for feature in model.spec.features for head in sorted(views_named(feature))]
        return [name for name in dict.fromkeys(heads) if name in self._views]

    def _tables_of(self, model: specs.Model) -> list[str]:
        """Return the tables that a model looks into."""
        names = [name for feature in model.spec.features for name in sorted(tables_named(feature))]
        return [name for name in dict.fromkeys(names) if name in self._tables]


def _entity(view: specs.FeatureView) -> str:
    return ", ".join(view.spec.entities) or "none: one row for all"
