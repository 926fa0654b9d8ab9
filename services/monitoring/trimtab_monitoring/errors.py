"""What monitoring refuses, and what it waits for.

Rejected
├── BadBatch         a batch of predictions contradicts itself
├── BadQuestion      a question about metrics or for a report that has no answer
├── BadSilence       a silence about nothing, or of no time
├── BadSinks         a setting that names no sinks
├── NothingToReport  (NotFound)
├── UnknownLoop      (NotFound)
├── UnknownSilence   (NotFound)
└── UnknownSubject   (NotFound)
Unavailable
├── MessageRefused   a sink takes others, perhaps, and not this
├── NotCalibrated    a version's thresholds are still being worked out
└── Overwhelmed      work took too long, or was killed: it may go well once more, but not for ever
"""

from collections.abc import Iterable

from trimtab_core.features import nearest
from trimtab_runtime.errors import NotFound, Rejected, Unavailable


class BadBatch(Rejected):
    """A batch of predictions whose columns do not fit together."""


class BadQuestion(Rejected):
    """A question about metrics, or for a report, that contradicts itself."""


class NothingToReport(NotFound):
    """There are no rows, or nothing to hold them against."""


class BadSilence(Rejected):
    """A silence that would silence nothing."""


class MessageRefused(Unavailable):
    """A sink does not take a message for what it says, as it may take another."""


class BadSinks(Rejected):
    """The setting of the sinks is not of its form."""

    def __init__(self, place: int) -> None:
        super().__init__(
            f"TRIMTAB_MONITORING_ALERT_SINKS has no name=kind:address at place {place}: write that, with kind webhook, slack "
            "or alertmanager and an http or https address, and spaces between several"
        )


class UnknownSilence(NotFound):
    """There is no silence of that id."""

    def __init__(self, id: int) -> None:
        super().__init__(f"there is no silence {id}: look at `trimtab alert silences`")


class UnknownSubject(NotFound):
    """Nothing of that name is known, of which there could be an alert."""

    def __init__(self, name: str, known: Iterable[str]) -> None:
        super().__init__(
            f"there is no model, source or table {name!r}, nor an alert about it: {nearest(name, known)}"
        )


class UnknownLoop(NotFound):
    """There is no loop of that id, nor a single one whose id begins so."""

    def __init__(self, id: str) -> None:
        super().__init__(
            f"there is no loop {id!r}: look at `trimtab loops`, and write more of its id if several begin so"
        )


class NotCalibrated(Unavailable):
    """A complete window waits for the thresholds of its version."""

    def __init__(self, model: str, version: int) -> None:
        super().__init__(f"version {version} of {model!r} is not calibrated yet")
        self.model = model
        self.version = version


class Overwhelmed(Unavailable):
    """Work in a child process took too long, or was killed, as the system does when memory runs out."""
