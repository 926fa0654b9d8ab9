"""`trimtab model health`."""

from typing import Any

from trimtab_contracts.monitoring.v1.monitoring_pb2 import Metric, ModelHealth
from trimtab_runtime.clock import from_timestamp, iso

from trimtab.cli.session import HOME, Directory, Json, about, ask, console, plain, print_json, show

_ESTIMATED = "estimated_"


def health(model: str, directory: Directory = HOME, as_json: Json = False) -> None:
    """Say what monitoring sees of MODEL: its newest windows, and how it does where labels have not come yet."""
    found = ask(directory, lambda trimtab: trimtab.health(model))
    if as_json:
        print_json(plain(found))
        return
    until = f", closed up to {_at(found.watermark)}" if found.HasField("watermark") else ""
    console.print(
        f"version {found.version} of {model}: {found.predictions} predictions, {found.labels} with a label, "
        f"{found.unlabelled} without{until}",
        highlight=False, soft_wrap=True,
    )  # fmt: skip
    metrics = sorted(found.metrics, key=lambda it: not it.name.startswith(_ESTIMATED))
    show([_row(found, it) for it in metrics], as_json=False, empty="no window is full yet")
    unknown = [metric.unknown for metric in metrics if metric.unknown]
    for sentence in filter(None, (*unknown, *found.judged, *found.faults, found.foreseen, found.untold)):
        console.print(sentence, highlight=False, markup=False, soft_wrap=True)


def _row(found: ModelHealth, metric: Metric) -> dict[str, Any]:
    between = f"{metric.low:.4g} to {metric.high:.4g}" if metric.HasField("low") else ""
    return {
        "metric": metric.name,
        "feature": metric.feature,
        "version": metric.version,
        "value": metric.value if metric.HasField("value") else "unknown",
        "between": between,
        "usual up to": metric.threshold if metric.HasField("threshold") else None,
        "rows": metric.rows,
        "up to": _at(metric.window_to) + _ahead(found, metric),
    }


def _ahead(found: ModelHealth, metric: Metric) -> str:
    """Return how far an estimate is ahead of the labels that say how it really was."""
    if not metric.name.startswith(_ESTIMATED):
        return ""
    lead = from_timestamp(metric.window_to) - from_timestamp(found.watermark)
    return f", {about(lead)} ahead of labels" if lead > 0 else ", its labels have come"


def _at(stamp: Any) -> str:
    return iso(from_timestamp(stamp))[:16]
