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


class TrimtabError(Exception):
    """Base of all that Trimtab raises on purpose."""


class Rejected(TrimtabError):
    """The request is wrong; sending it again will not help."""


class NotFound(Rejected):
    """It names something that is not there."""


class Conflict(Rejected):
    """It does not fit the present state; look again, then decide."""


class Overloaded(Rejected):
    """There is no room for it now; send it again, later and slower."""


class Unavailable(TrimtabError):
    """Something we lean on is down; send it again later."""
