"""`trimtab metrics`."""

import json
from collections.abc import Sequence
from typing import Annotated, Any

import typer
from trimtab_contracts.monitoring.v1.monitoring_pb2 import Metric
from trimtab_core.durations import parse_duration
from trimtab_runtime.clock import from_timestamp, iso
from trimtab_runtime.errors import Rejected

from trimtab.cli.session import HOME, Directory, Json, ask, console, moment, plain, print_json, show
from trimtab.client import Trimtab
from trimtab.metrics import limit_of
from trimtab.observing import Filters


def add_to(app: typer.Typer) -> None:
    """Add the command to `app`."""
    app.command("metrics")(metrics)


def metrics(
    model: Annotated[str, typer.Argument(help="Of a model, window by window.", show_default=False)] = "",
    source: Annotated[str, typer.Option(help="Of a source, hour by hour.")] = "",
    name: Annotated[
        list[str] | None, typer.Option(help="Of this name, such as mae; again for another.")
    ] = None,
    feature: Annotated[
        list[str] | None, typer.Option(help="Of this feature, or field of a source; again for another.")
    ] = None,
    arm: Annotated[
        list[str] | None,
        typer.Option(help="Of the champion or the challenger; again for another, '' for the rows of all."),
    ] = None,
    slice: Annotated[
        list[str] | None,
        typer.Option(help="Of rows with this value of a feature; again for another, '' for the rows of all."),
    ] = None,
    slice_of: Annotated[
        list[str] | None, typer.Option(help="Of slices by this feature; again for another.")
    ] = None,
    version: Annotated[int, typer.Option(help="Of this version.")] = 0,
    subject: Annotated[str, typer.Option(help="drift, performance or quality.")] = "",
    since: Annotated[
        str,
        typer.Option(help="Event time: a day, a time, or how long before what is closed, such as 7d."),
    ] = "",
    until: Annotated[str, typer.Option(help="Before this day or time.")] = "",
    limit: Annotated[int, typer.Option(min=0, help="The newest so many; 0 for all.")] = 50,
    watch: Annotated[bool, typer.Option("--watch", help="Go on with what is told from now on.")] = False,
    directory: Directory = HOME,
    as_json: Json = False,
) -> None:
    """Show what monitoring measured of MODEL, or of a source, in order of time."""
    if bool(model) == bool(source):
        raise Rejected("metrics are of a model or of a source: name MODEL, or --source SOURCE")
    filters = Filters(
        source=source, names=name or [], features=feature or [], arms=arm or [], slices=slice or [], slices_of=slice_of or [],
        version=version, subject=subject, until_ms=moment("--until", until) if until else None,
    )  # fmt: skip
    if watch and until:
        raise Rejected("--until is for what was, and --watch for what comes: leave one of them out")

    async def look(trimtab: Trimtab) -> Sequence[Metric]:
        filters["since_ms"] = await _since(trimtab, model, source, since) if since else None
        if not watch:
            return (await trimtab.metrics(model, limit=limit, **filters)).messages
        async for metric in trimtab.watch_metrics(model, **filters):
            _print(metric, as_json=as_json)
        return ()

    found = ask(directory, look)
    if as_json:
        print_json([plain(metric) for metric in found])
        return
    comes = "each hour that is over" if source else "each full window of predictions"
    show(
        [hour(metric) for metric in found] if source else table(found),
        as_json=False,
        empty=f"no metric of {model or source} matches: what is measured comes with {comes}",
    )
    for sentence in dict.fromkeys(metric.unknown for metric in found if metric.unknown):
        console.print(sentence, highlight=False, markup=False, soft_wrap=True)


async def _since(trimtab: Trimtab, model: str, source: str, text: str) -> int:
    """Return the time that `--since` means.

    A length of time is before the model's watermark, which a replay has too, or the end of the source's newest hour.
    """
    try:
        length = parse_duration(text)
    except ValueError:
        return moment("--since", text)
    if source:
        newest = (await trimtab.metrics(source=source, limit=1)).messages
        return from_timestamp(newest[0].window_to) - length if newest else 0
    return from_timestamp((await trimtab.health(model)).watermark) - length


def table(metrics: Sequence[Metric]) -> list[dict[str, Any]]:
    """Return metrics as the rows of a table, which has no arm, slice or bounds where no metric has any."""
    rows = [_row(metric) for metric in metrics]
    empty = {name for name in ("arm", "slice", "between") if not any(row[name] for row in rows)}
    return [{name: value for name, value in row.items() if name not in empty} for row in rows]


def _row(metric: Metric) -> dict[str, Any]:
    return {
        "window": f"{_at(metric.window_from)} to {_at(metric.window_to)}",
        "version": metric.version,
        "arm": metric.arm,
        "metric": metric.name,
        "feature": metric.feature,
        "slice": f"{metric.slice_of} = {metric.slice}" if metric.slice_of else metric.slice,
        "value": value(metric),
        "between": between(metric),
        "usual up to": metric.threshold if metric.HasField("threshold") else None,
        "rows": metric.rows,
    }


def hour(metric: Metric) -> dict[str, Any]:
    """Return a metric of an hour of a source as a row of a table."""
    return {
        "hour": _at(metric.window_from),
        "metric": metric.name,
        "field": metric.feature,
        "value": value(metric),
        "usual": metric.threshold if metric.HasField("threshold") else None,
        "expected": _expected(metric),
        "rows": metric.rows,
    }


def value(metric: Metric) -> float | str:
    """Return a metric's value, or that it is unknown."""
    return metric.value if metric.HasField("value") else "unknown"


def between(metric: Metric) -> str:
    """Return the bounds of a metric, if it has both."""
    return (
        f"{metric.low:.4g} to {metric.high:.4g}" if metric.HasField("low") and metric.HasField("high") else ""
    )


def _expected(metric: Metric) -> str | None:
    """Return where the value should be, and whether it is not."""
    if not metric.HasField("held"):
        return None
    return f"{limit_of(metric)}{'' if metric.held else ', and is not'}"


def _print(metric: Metric, *, as_json: bool) -> None:
    if as_json:
        print(json.dumps(plain(metric)), flush=True)
        return
    usual = f", usual up to {metric.threshold:.4g}" if metric.HasField("threshold") else ""
    of = f" of {metric.feature}" if metric.feature else ""
    of_which = f" where {metric.slice_of}" if metric.slice_of else ""
    where = f"{of_which} = {metric.slice}" if metric.slice else ""
    found = value(metric)
    said = found if isinstance(found, str) else f"{found:.4g}"
    bounds = f", {between(metric)}" if between(metric) and not metric.HasField("held") else ""
    expected = f", {_expected(metric)} is expected" if metric.HasField("held") else ""
    version = f"version {metric.version}  " if metric.version else ""
    arm = f"{metric.arm}  " if metric.arm else ""
    why = f": {metric.unknown}" if metric.unknown else ""
    console.print(
        f"{_at(metric.window_to)}  {version}{arm}{metric.name}{of}{where} {said}{bounds}{usual}{expected}{why}",
        markup=False,
        highlight=False,
        soft_wrap=True,
    )


def _at(stamp: Any) -> str:
    return iso(from_timestamp(stamp))[:16]
