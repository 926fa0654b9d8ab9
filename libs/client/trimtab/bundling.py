"""Puts one version of a model, and all that serving would have heard for it, into a bundle.

Features of views and rows of tables are taken as they stand on their topics, so that
what answers from the bundle says what serving says at that moment; the bundle tells up
to when its features are.
"""

import asyncio
from collections.abc import Mapping, Sequence
from typing import Any

from trimtab_contracts import topics
from trimtab_contracts.registry.v1.registry_pb2 import Deployment, Resource
from trimtab_core import specs
from trimtab_core.features import TableFeature, ViewFeature, inputs, resolve
from trimtab_runtime import artifacts, featurelog
from trimtab_runtime.bundle import Bundle, Record
from trimtab_runtime.clock import Clock
from trimtab_runtime.errors import Rejected
from trimtab_runtime.onlineview import OnlineView
from trimtab_runtime.pipeline import read_partition
from trimtab_runtime.specbook import from_message

from trimtab.batch import warm_version
from trimtab.client import Trimtab

_MB = 1024 * 1024


async def make_bundle(
    trimtab: Trimtab, servers: str, model: str, number: int, clock: Clock, *, most_mb: int
) -> Bundle:
    """Return the bundle of a warm version of a model, the champion if `number` is 0.

    Raises:
        NotFound, Conflict: there is no such model or version.
        Rejected: what it would hold of views and tables is more than `most_mb`, or a view has no features yet.
        Unavailable: the artifacts, or Kafka, cannot be read from here.
    """
    deployment, version = await warm_version(trimtab, model, number)
    resources = {f"{each.kind}/{each.name}": each for each in await trimtab.resources()}
    needed = _needed(resources, model, [*version.features, *version.texts])
    records = [
        Record(topics.SPECS.name, 0, key.encode(), topics.SPECS.encode(each)) for key, each in needed.items()
    ]
    wanted = Deployment(model=model, generation=deployment.generation, champion=version)
    records.append(Record(topics.DEPLOYMENTS.name, 0, model.encode(), topics.DEPLOYMENTS.encode(wanted)))
    held, reached = list[Record](), list[int]()
    for resource in needed.values():
        if resource.kind == "FeatureView":
            found, until_ms = await _view(servers, needed, resource)
            held += found
            reached.append(until_ms)
        elif resource.kind == "Table":
            held += await _newest(servers, topics.TABLES.named(resource.name))
    if (size := sum(len(each.value) for each in held) / _MB) > most_mb:
        raise Rejected(
            f"what model {model!r} looks up in views and tables is {size:,.0f} MB, and {most_mb} are the most: say --most-mb, "
            "or leave the features of views out of a model that is to serve alone"
        )
    files = [each for each in (version.model, version.reference) if each.digest]
    stored = await asyncio.to_thread(lambda: {each.digest: artifacts.fetch(each) for each in files})
    return Bundle(
        model, version.number, clock.now_ms(), min(reached, default=None), [*records, *held], stored
    )


def _needed(resources: Mapping[str, Resource], model: str, features: Sequence[str]) -> dict[str, Resource]:
    """Return the specs that a version is served by: the model's, its source's, and those of what it looks up and their sources."""
    known = {key: from_message(each) for key, each in resources.items()}
    spec, views, tables = known[f"Model/{model}"], dict[str, Any](), dict[str, Any]()
    assert isinstance(spec, specs.Model)
    for each in known.values():
        if isinstance(each, specs.FeatureView):
            views[each.name] = each.spec
        elif isinstance(each, specs.Table):
            tables[each.name] = each.spec
    source = known[f"Source/{spec.spec.source}"]
    assert isinstance(source, specs.Source)
    looked_up = inputs(resolve(features, source.spec, views, tables))
    of_views = sorted({each.view for each in looked_up if isinstance(each, ViewFeature)})
    names = [
        f"Model/{model}",
        f"Source/{spec.spec.source}",
        *(f"Source/{views[view].source}" for view in of_views),
        *(f"FeatureView/{view}" for view in of_views),
        *(f"Table/{each.table}" for each in looked_up if isinstance(each, TableFeature)),
    ]
    return {name: resources[name] for name in dict.fromkeys(names)}


async def _view(servers: str, needed: Mapping[str, Resource], view: Resource) -> tuple[list[Record], int]:
    """Return the online state of a view, and up to when it is."""
    spec = from_message(view)
    assert isinstance(spec, specs.FeatureView)
    source = from_message(needed[f"Source/{spec.spec.source}"])
    assert isinstance(source, specs.Source)
    topic = topics.FEATURES.named(view.name, partitions=source.spec.partitions)
    records = [
        each
        for each in await _newest(servers, topic)
        if featurelog.parse_key(each.key).generation == view.generation
    ]
    online = OnlineView(spec, source, view.generation)
    for partition in range(topic.partitions):
        online.apply(partition, [each for each in records if each.partition == partition])
    if online.until_ms is None:
        raise Rejected(
            f"view {view.name!r} has no features yet: export once its first events have been folded"
        )
    return records, online.until_ms


async def _newest(servers: str, topic: topics.Topic[Any]) -> list[Record]:
    """Return the newest record of each key of a topic, in their order."""
    found: dict[tuple[int, bytes], Record] = {}
    for partition in range(topic.partitions):
        async for batch in read_partition(servers, topic.name, partition):
            for record in batch:
                place = (partition, record.key)
                found.pop(place, None)
                if record.key is not None and record.value is not None:
                    found[place] = Record(topic.name, partition, record.key, record.value)
    return list(found.values())
