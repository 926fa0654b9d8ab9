"""What the feature store refuses.

Rejected
├── BadWindow            a range of times is none
├── BadQuestion          features or entities that mean nothing, or too many of them
├── BadPart              a part of a file contradicts itself
├── VersionGone          (NotFound) a version of a table is no longer kept, or never was
└── Conflict             ArchiveConflict, OtherPart, SentBefore
Unavailable
├── NotArchivedYet       the archive has not come as far as was asked
├── EventsNotArchivedYet the archive lacks events that a view begins with
└── NotRead              a view's features have not been read to their end yet
"""

from trimtab_runtime.clock import iso
from trimtab_runtime.errors import Conflict, NotFound, Rejected, Unavailable


class BadWindow(Rejected):
    """A range of times is none."""

    def __init__(self, start_ms: int, end_ms: int) -> None:
        super().__init__(f"start {iso(start_ms)} is not before end {iso(end_ms)}: ask for an earlier start")


class BadQuestion(Rejected):
    """Features or entities are asked for that mean nothing, or too many of them."""


class BadPart(Rejected):
    """A part of a file contradicts itself; nothing of it was taken."""


class VersionGone(NotFound):
    """A version of a table is asked for that is no longer kept, or never was."""

    def __init__(self, table: str, version: int) -> None:
        super().__init__(
            f"version {version} of table {table} is not kept any more: it is older than what is kept, and no run that "
            "is remembered or serves was trained on it"
        )


class OtherPart(Conflict):
    """A part of a file does not begin where what was taken of it ends."""

    def __init__(self, source: str, after: int, come: int) -> None:
        super().__init__(
            f"the part begins behind row {after}, and source {source!r} has the file up to row {come}: another command "
            "fills from it too; wait for that, then run this one again"
        )


class SentBefore(Conflict):
    """The rows of a file came over the source's topic."""

    def __init__(self, source: str) -> None:
        super().__init__(
            f"rows of this file are in the archive of source {source!r}, for `trimtab ingest` has sent them: send the "
            "rest of it in the same way"
        )


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
