"""`trimtab dataset export | diff`, `trimtab audit skew`, `trimtab freshness`."""

import asyncio
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer
from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.errors import KafkaError
from trimtab_contracts import topics
from trimtab_contracts.features.v1.features_pb2 import AuditSkewResponse
from trimtab_contracts.monitoring.v1.monitoring_pb2 import Metric
from trimtab_contracts.training.v1.training_pb2 import Run
from trimtab_core.specs import Model, parse
from trimtab_runtime.clock import from_timestamp, iso
from trimtab_runtime.errors import NotFound, Unavailable
from trimtab_runtime.freshness import P50, P99

from trimtab.cli.session import (
    HOME,
    Directory,
    Json,
    ask,
    console,
    environ,
    moment,
    plain,
    print_json,
    show,
    wanted,
)
from trimtab.client import Trimtab
from trimtab.datasets import TrainingSet, compared, versions

app = typer.Typer(no_args_is_help=True)
audit = typer.Typer(no_args_is_help=True)
_RECENT = 200
"""Records of each partition that are looked at for the newest of each view."""


@app.command()
def export(
    model: str,
    file: Annotated[Path, typer.Argument(help="The Parquet file to write.")],
    start: Annotated[str, typer.Option(help="The rows' event times begin here (RFC 3339).")],
    end: Annotated[str, typer.Option(help="They end before here.")],
    as_of: Annotated[str, typer.Option(help="See nothing that arrived later; everything by default.")] = "",
    directory: Directory = HOME,
    as_json: Json = False,
) -> None:
    """Write the labelled rows of MODEL to FILE, each as it would have been answered then."""
    start_ms, end_ms = moment("--start", start), moment("--end", end)
    as_of_ms = moment("--as-of", as_of) if as_of else None
    made = ask(directory, lambda trimtab: trimtab.training_set(model, start_ms, end_ms, as_of_ms=as_of_ms))
    made.write(file)
    if as_json:
        print_json(made.described() | {"file": str(file)})
        return
    console.print(
        f"{made.rows} rows are in {file}; {made.rows_without_label} more have no label yet and were left out.\n"
        f"Made from {versions(made.tables)}; digest {made.digest[:12]}"
    )


@app.command()
def diff(run_a: str, run_b: str, directory: Directory = HOME, as_json: Json = False) -> None:
    """Show side by side what two runs were trained on, made once more from the archive."""

    async def both(trimtab: Trimtab) -> tuple[TrainingSet, TrainingSet]:
        return await _again(trimtab, run_a), await _again(trimtab, run_b)

    left, right = ask(directory, both)
    columns = compared(left.arrow(), right.arrow())
    if as_json:
        print_json({"left": left.described(), "right": right.described(), "columns": columns})
        return
    show(
        [
            {"": name, run_a: one, run_b: other}
            for (name, one), other in zip(left.described().items(), right.described().values(), strict=True)
        ],
        as_json=False,
    )
    show([{"column": each["column"]} | _beside(each) for each in columns], as_json=False)


def _beside(column: dict[str, Any]) -> dict[str, Any]:
    pairs = {
        what: (column[f"left {what}"], column[f"right {what}"]) for what in ("type", "mean", "std", "nulls")
    }
    return {
        what: _text(one) if one == other else f"{_text(one)} | {_text(other)}"
        for what, (one, other) in pairs.items()
    }


def _text(value: Any) -> str:
    if value is None:
        return "-"
    return f"{value:.4g}" if isinstance(value, float) else str(value)


async def _again(trimtab: Trimtab, run_id: str) -> TrainingSet:
    """Return what a run was trained on, by the model's spec as it is now."""
    runs = [run for run in await trimtab.runs() if run.event.run_id == run_id]
    if not runs:
        raise NotFound(f"there is no run {run_id!r}: look at `trimtab run list`")
    event = runs[0].event
    specs = [each for each in await trimtab.resources("Model") if each.name == event.model]
    if not specs:
        raise NotFound(f"model {event.model!r} of run {run_id!r} is not there any more: apply its spec again")
    model = parse("Model", plain(specs[0].document))
    assert isinstance(model, Model)
    end_ms = from_timestamp(event.as_of)
    made = await trimtab.training_set(
        event.model, end_ms - model.spec.trainer.window, end_ms, as_of_ms=end_ms
    )
    if event.candidate.dataset_digest not in ("", made.digest):
        console.print(
            f"run {run_id} was trained on other rows ({event.candidate.dataset_digest[:12]}) than its spec and the "
            f"archive give now ({made.digest[:12]})",
            style="yellow",
        )
    return made


def used(runs: Sequence[Run]) -> list[dict[str, Any]]:
    """Return the datasets that runs were trained on, as `trimtab get datasets` shows them."""
    return [
        {
            "model": run.event.model,
            "run": run.event.run_id,
            "rows": run.event.candidate.rows,
            "from": iso(from_timestamp(run.event.candidate.trained_from)),
            "to": iso(from_timestamp(run.event.candidate.trained_to)),
            "tables": versions({table.table: table.version for table in run.event.candidate.tables}),
            "digest": run.event.candidate.dataset_digest,
        }
        for run in runs
        if run.event.candidate.dataset_digest
    ]


@audit.command()
def skew(
    model: str,
    since: Annotated[str, typer.Option(help="Only predictions of this event time (RFC 3339) or later.")] = "",
    until: Annotated[str, typer.Option(help="Only those of an earlier event time than this.")] = "",
    directory: Directory = HOME,
    as_json: Json = False,
) -> None:
    """Compare the features that serving logged for MODEL with what the archive says they should have been."""
    since_ms = moment("--since", since) if since else None
    until_ms = moment("--until", until) if until else None
    found = ask(directory, lambda it: it.audit_skew(model, since_ms=since_ms, until_ms=until_ms))
    rows = [_skewed(each) for each in found.features]
    if as_json:
        counts = ("rows", "mismatched", "rows_without_event", "rows_of_old_features")
        print_json({"model": model, **{name: getattr(found, name) for name in counts}, "features": rows})
        return
    console.print(
        f"{found.rows} predictions compared, {found.mismatched} of them not as they should have been."
    )
    if found.rows_without_event:
        console.print(f"{found.rows_without_event} were not compared: their event is not archived.")
    if found.rows_of_old_features:
        console.print(
            f"{found.rows_of_old_features} were not compared: their version takes a feature that is no more."
        )
    show(rows, as_json=False, empty="nothing could be compared")


def _skewed(found: AuditSkewResponse.Feature) -> dict[str, Any]:
    worst = found.worst
    example = (
        f"{worst.key} at {iso(from_timestamp(worst.event_time))}, version {worst.version}: logged {worst.logged:g}, "
        f"recomputed {worst.recomputed:g}"
    )
    return {
        "feature": found.name,
        "rows": found.rows,
        "mismatch share": found.mismatched / found.rows,
        "missing share": found.missing / found.rows,
        "extra share": found.extra / found.rows,
        "worst": example if found.HasField("worst") else None,
    }


def freshness(directory: Directory = HOME, as_json: Json = False) -> None:
    """Show how long the newest events of each view took, from produced to readable as features."""
    [servers] = wanted(environ(directory), "TRIMTAB_KAFKA_SERVERS")
    found: dict[tuple[str, str], dict[str, Any]] = {}
    for where, metric in asyncio.run(_recent(servers)):
        row = found.setdefault((metric.model, where), {"view": metric.model, "read by": where})
        row["transactions"], row["until"] = metric.rows, iso(from_timestamp(metric.window_to))
        row[{P50: "p50 ms", P99: "p99 ms"}.get(metric.name, metric.name)] = metric.value
    rows = [found[place] for place in sorted(found)]
    show(
        rows,
        as_json=as_json,
        empty="no event has come since the features were read: see `trimtab get featureviews`",
    )


async def _recent(servers: str) -> list[tuple[str, Metric]]:
    """Return the newest metrics of features in order, each with the instance that told it."""
    topic = topics.METRICS_FEATURES
    consumer = AIOKafkaConsumer(bootstrap_servers=servers, enable_auto_commit=False)
    found: list[tuple[int, str, Metric]] = []
    try:
        await consumer.start()
        if topic.name not in await consumer.topics():
            return []
        places = [TopicPartition(topic.name, number) for number in range(topic.partitions)]
        consumer.assign(places)
        begins, ends = await consumer.beginning_offsets(places), await consumer.end_offsets(places)
        for place in places:
            consumer.seek(place, max(begins[place], ends[place] - _RECENT))
        while any([await consumer.position(place) < ends[place] for place in places]):
            for batch in (await consumer.getmany(timeout_ms=200)).values():
                for record in batch:
                    where = dict(record.headers).get("ce_source", b"").decode()
                    found.append((record.timestamp, where, topic.decode(record.value)))
    except KafkaError as error:
        raise Unavailable(f"Kafka at {servers} cannot be read: {error}") from error
    finally:
        await consumer.stop()
    return [(where, metric) for _, where, metric in sorted(found, key=lambda each: each[0])]
