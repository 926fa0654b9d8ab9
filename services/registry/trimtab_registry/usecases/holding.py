"""What a version is in use for: while it is, it is not retired and its files are not thrown away."""

from trimtab_registry.usecases.entities import Stage, Version
from trimtab_registry.usecases.rollouts import Standing

COMPUTED = ("champion", "challenger", "previous")
"""The aliases that nobody gives: they follow what serves."""
PIN = "pin"
"""A tag of this key keeps a version, for the reason that is its value."""


def computed(standing: Standing, number: int) -> list[str]:
    """Return the aliases that a version has by where its model stands."""
    return [name for name in COMPUTED if getattr(standing, name) == number]


def held_by(standing: Standing, version: Version) -> list[str]:
    """Return what a version is in use for, as it is said in a sentence; nothing, if it is in no use."""
    number, held = version.number, []
    if standing.champion == number:
        held.append("is the champion")
    elif standing.live == number:
        held.append("still serves, until the champion is warm")
    if number in standing.challengers:
        held.append("is on its way to serve")
    if standing.previous == number:
        held.append("is the champion before, kept warm for a rollback")
    if version.stage is Stage.AWAITING_CHECKS:
        held.append("waits for checks")
    if version.stage is Stage.AWAITING_APPROVAL:
        held.append("waits for approval")
    held += [f"is called {alias!r}" for alias in version.aliases]
    if PIN in version.tags:
        held.append(f"is pinned ({version.tags[PIN]})")
    return held
