"""How the windows of a version are judged, in sentences for a screen: a user states a rate in time, and reads here what it is a window.

What cannot be promised, or could not be done, is said as plainly.
"""

from trimtab_core.baseline import Calibration, Settings, Uncalibrated
from trimtab_core.durations import Span
from trimtab_core.naming import listed
from trimtab_core.specs import LEAST_WINDOW


def promised(version: int, found: Calibration | Uncalibrated | None, settings: Settings) -> list[str]:
    """Return what is promised of the windows of a version under `settings`; None stands for what is being worked out."""
    if found is None:
        return [f"Version {version} is being calibrated, and its windows wait for that."]
    if isinstance(found, Uncalibrated):
        return [unwatched(version, found)]
    each = f" of {Span(settings.every_ms)}" if settings.every_ms is not None else ""
    windows = f"windows{each} of {settings.window:,} predictions"
    once = round(1 / found.prediction.false_alarms)
    said = [
        f"While nothing changes, each of {settings.shares} kinds of drift is told in one of {once:,} {windows} of version "
        f"{version}: monitoring.false_alarms is {settings.false_alarms}."
    ]
    if settings.wanted is not None:
        said.append(_of_wanted(settings.wanted, round(1 / found.performance.false_alarms), settings))
    levels = {"data": found.data, "prediction": found.prediction, "performance": found.performance}
    if small := [kind for kind, level in levels.items() if level is not None and level.small]:
        said.append(
            f"The reference of version {version} is too small for {windows}: {listed(small)} drift is judged cautiously, so "
            "that what is slight is told late or never. Train it on more rows, or shorten monitoring.window."
        )
    return [*said, *(f"Of version {version}: {note}" for note in found.notes)]


def _of_wanted(count: int, once: int, settings: Settings) -> str:
    """Return what labels of so many predictions of a window tell."""
    at_most = f"Labels come for {count} of a window at most"
    if settings.every_ms is None:
        return f"{at_most}, so a window of performance is of {settings.window:,} of those, and its drift is told in one of {once:,}."
    if count < LEAST_WINDOW:
        return f"{at_most}, and a window of performance is not judged with fewer than {LEAST_WINDOW}: raise monitoring.labels_wanted."
    return f"{at_most}, so a window of performance is of as many, and its drift is told in one of {once:,}."


def unwatched(version: int, found: Uncalibrated) -> str:
    """Return in a sentence that the windows of a version are not judged, and why."""
    return f"Version {version} is not watched, for nothing is known of what is usual for it: {found.why}."
