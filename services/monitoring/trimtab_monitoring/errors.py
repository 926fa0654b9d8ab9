"""What monitoring refuses, and what it waits for.

Rejected
├── BadBatch         a batch of predictions contradicts itself
└── UnknownLoop      (NotFound)
Unavailable
├── NotCalibrated    a version's thresholds are still being worked out
└── Overwhelmed      work took too long, or was killed: it may go well once more, but not for ever
"""

from trimtab_runtime.errors import NotFound, Rejected, Unavailable


class BadBatch(Rejected):
    """A batch of predictions whose columns do not fit together."""


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
