"""What the demo shows while it runs: one screen in a terminal, a line a month elsewhere."""

import time
from collections import deque
from dataclasses import dataclass, field

from rich.console import Console, Group
from rich.live import Live
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

_REFRESH_S = 0.25


@dataclass(slots=True)
class Month:
    """A finished or a running month."""

    name: str
    predictions: int = 0
    as_served: float | None = None
    never_retrained: float | None = None
    versions: str = ""


@dataclass(slots=True)
class Screen:
    """All that is shown."""

    phase: str = ""
    day: str = ""
    events: int = 0
    predictions: int = 0
    failed: int = 0
    live_version: int = 0
    loop: str = "no drift"
    drift: list[tuple[str, float, float | None]] = field(default_factory=list)
    """Names, values and thresholds of the newest window's scores."""
    months: list[Month] = field(default_factory=list)


class View:
    """Shows a `Screen` as it changes."""

    def __init__(self, console: Console) -> None:
        self.screen = Screen()
        self._console = console
        self._live = (
            Live(console=console, auto_refresh=False, transient=False) if console.is_terminal else None
        )
        self._history: deque[tuple[float, int, int]] = deque(maxlen=40)
        self._drawn_at = 0.0

    def __enter__(self) -> "View":
        if self._live:
            self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._live:
            self._live.update(self._render(), refresh=True)
            self._live.stop()

    def say(self, sentence: str) -> None:
        """Print a sentence that stays, in one line however narrow the terminal."""
        self._console.print(sentence, highlight=False, soft_wrap=True)

    def phase(self, name: str) -> None:
        """Begin a new part of the story."""
        self.screen.phase = name
        if not self._live:
            self.say(f"- {name}")
        self.draw(now=True)

    def draw(self, *, now: bool = False) -> None:
        """Show the screen as it is, but not more often than an eye can follow."""
        moment = time.monotonic()
        if moment - self._drawn_at < _REFRESH_S and not now:
            return
        self._drawn_at = moment
        self._history.append((moment, self.screen.events, self.screen.predictions))
        if self._live:
            self._live.update(self._render(), refresh=True)

    def month_ended(self, month: Month) -> None:
        """Leave a line of a month where there is no screen."""
        if not self._live:
            self.say(
                f"  {month.name}  {month.predictions:6d} predictions, error as served {_minutes(month.as_served)},"
                f" never retrained {_minutes(month.never_retrained)}, versions {month.versions}"
            )

    def _rates(self) -> tuple[float, float]:
        if len(self._history) < 2:
            return 0.0, 0.0
        (start, events, predictions), (end, more_events, more_predictions) = (
            self._history[0],
            self._history[-1],
        )
        span = max(end - start, 1e-9)
        return (more_events - events) / span, (more_predictions - predictions) / span

    def _render(self) -> Panel:
        screen = self.screen
        events, predictions = self._rates()
        head = Text.assemble(
            (f"{screen.phase}  ", "bold"),
            (f"{screen.day}\n", "cyan"),
            f"{events:,.0f} events/s   {predictions:,.0f} predictions/s   ",
            f"{screen.events:,} events   {screen.predictions:,} predictions   ",
            (f"{screen.failed} failed\n", "red" if screen.failed else "green"),
            f"live version {screen.live_version or '-'}   loop: {screen.loop}",
        )
        return Panel(Group(head, self._scores(), self._months()), title="Trimtab", border_style="blue")

    def _scores(self) -> Table:
        table = Table.grid(padding=(0, 2))
        for name, value, threshold in self.screen.drift:
            over = threshold is not None and value > threshold
            shown = f"{value:.3g}" + (f" (limit {threshold:.3g})" if threshold is not None else "")
            table.add_row(name, Text(shown, "red" if over else ""))
        return table

    def _months(self) -> Table:
        table = Table(
            "month",
            "predictions",
            "error as served",
            "never retrained",
            "",
            "versions",
            box=None,
            header_style="dim",
        )
        for month in self.screen.months:
            better = (month.never_retrained or 0) - (month.as_served or 0)
            table.add_row(
                month.name,
                f"{month.predictions:,}",
                _minutes(month.as_served),
                _minutes(month.never_retrained),
                Text("█" * min(round(better * 10), 30), "green"),
                month.versions,
            )
        return table


def _minutes(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f} min"
