"""What the feature store refuses.

Rejected
├── BadWindow            a range of times is none
├── BadQuestion          features or entities that mean nothing, or too many of them
└── ArchiveConflict      (Conflict) a field changed its type
Unavailable
├── NotArchivedYet       the archive has not come as far as was asked
├── EventsNotArchivedYet the archive lacks events that a view begins with
├── NotRead              a view's features have not been read to their end yet
└── RayAway              the cluster that training sets are made on cannot be used
"""

from trimtab_runtime.clock import iso
from trimtab_runtime.errors import Conflict, Rejected, Unavailable


class BadWindow(Rejected):
    """A range of times is none."""

    def __init__(self, start_ms: int, end_ms: int) -> None:
        super().__init__(f"start {iso(start_ms)} is not before end {iso(end_ms)}: ask for an earlier start")


class BadQuestion(Rejected):
    """Features or entities are asked for that mean nothing, or too many of them."""


class ArchiveConflict(Conflict):
    """A field's type is not the one its archived rows have."""

    def __init__(self, table: str, column: str, held: str, given: str) -> None:
        super().__init__(
            f"column {column!r} of table {table} holds {held}, and its contract now says {given}: "
            "change the contract back, or call the field by a new name"
        )


class NotArchivedYet(Unavailable):
    """The archive has not come as far as was asked."""

    def __init__(self, source: str, reached_ms: int, wanted_ms: int) -> None:
        super().__init__(
            f"the archive of source {source!r} stands at {iso(reached_ms)}, and {iso(wanted_ms)} was waited for: "
            "ask again once its events have passed that time"
        )


class EventsNotArchivedYet(Unavailable):
    """The archive lacks events that a view begins with."""

    def __init__(self, source: str, missing: int) -> None:
        super().__init__(
            f"the archive of source {source!r} is {missing} records behind its topic: a view of it begins once they "
            "are archived"
        )


class NotRead(Unavailable):
    """A view's features have not been read to their end yet."""

    def __init__(self, view: str) -> None:
        super().__init__(f"the features of view {view!r} are still being read: ask again in a moment")


class RayAway(Unavailable):
    """The cluster that training sets are made on cannot be used; it is told by a sentence, which leaves a process."""
