"""What can go wrong, sorted by what the caller should do next.

    TrimtabError
    ├── Rejected         the request is wrong; sending it again will not help
    │   ├── NotFound
    │   ├── Conflict     it does not fit the present state; look again, then decide
    │   └── Overloaded   too much at once; send it again, later and slower
    └── Unavailable      something we lean on is down; send it again later

`TrimtabError` itself is a fault of ours, which sending again may or may not get past.
No class knows a transport: `rpc` maps them to statuses, `bus` to a record's fate.
"""

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Fault:
    """One thing that is wrong with a document that was sent: where, what, and what to do about it."""

    resource: str
    """Kind/name."""
    path: str
    """Keys from the document's top, with dots between."""
    sentence: str
    """From the value to the remedy."""

    def __str__(self) -> str:
        return f"{self.resource}: {self.path}: {self.sentence}"


class TrimtabError(Exception):
    """Base of all that Trimtab raises on purpose."""


class Rejected(TrimtabError):
    """The request is wrong; sending it again will not help."""

    def __init__(self, sentence: str = "", *, faults: Sequence[Fault] = ()) -> None:
        """Say why in a sentence; or give `faults`, a line each, for whoever has the documents to place them."""
        super().__init__(sentence or "\n".join(map(str, faults)))
        self.faults = tuple(faults)


class NotFound(Rejected):
    """It names something that is not there."""


class Conflict(Rejected):
    """It does not fit the present state; look again, then decide."""


class Overloaded(Rejected):
    """There is no room for it now; send it again, later and slower."""

    def __init__(self, sentence: str = "", *, retry_after_s: float = 0.1) -> None:
        """`retry_after_s` is when there will be room, as far as that can be told."""
        super().__init__(sentence)
        self.retry_after_s = retry_after_s


class Unavailable(TrimtabError):
    """Something we lean on is down; send it again later."""
