"""What both formats share: rows have no levels, and are JSON.

A record within a record gives its fields to the row, named by the way to them:
`pickup.zone` is `pickup_zone`. One that lies in a list, a map or itself stays an object.
"""

from collections.abc import Iterable

import msgspec

from trimtab_formats.errors import BadSchema

to_json = msgspec.json.Encoder(decimal_format="number").encode
"""Times as ISO 8601, bytes as base64, decimals as numbers, what is no finite number as null."""


def below(name: str) -> str:
    """Return what stands before the names of the fields of a record that is the field `name`."""
    return f"{name}_"


def distinct(names: Iterable[str]) -> frozenset[str]:
    """Return the names of a row's fields.

    Raises:
        BadSchema: two fields have one name.
    """
    found: set[str] = set()
    for name in names:
        if name in found:
            raise BadSchema(
                f"two of its fields are called {name!r} in a row, where a field within a record is named by the way to it"
            )
        found.add(name)
    return frozenset(found)
