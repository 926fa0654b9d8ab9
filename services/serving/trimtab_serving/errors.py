"""What serving refuses.

Rejected
├── BadRow           a row of the request is not a row of the model's source
├── BadTensor        a tensor of the request is not what the model takes
├── CannotServe      a version cannot be brought to answer here
├── Conflict
│   ├── NoLiveVersion
│   ├── NotDecidedHere
│   ├── NotExplained
│   └── VersionNotWarm
└── Overloaded
    └── ModelBusy    too many requests of one version wait already

Unavailable
└── Forgotten        an engine no longer has what was loaded into it
"""

from collections.abc import Iterable

from trimtab_runtime.errors import Conflict, Overloaded, Rejected, Unavailable


class BadRow(Rejected):
    """A row of the request is not a row of the model's source."""


class BadTensor(Rejected):
    """A tensor of the request is not what the model takes."""


class CannotServe(Rejected):
    """A version cannot be brought to answer here; the message is what `serving.status` reports."""


class NoLiveVersion(Conflict):
    """The model is known, and nothing answers for it yet."""

    def __init__(self, model: str, why: str = "none has been promoted") -> None:
        super().__init__(
            f"model {model!r} has no live version: {why}; train one, or look at `trimtab versions {model}`"
        )


class VersionNotWarm(Conflict):
    """A request pins a version that is not loaded."""

    def __init__(self, model: str, version: str | int, warm: Iterable[int]) -> None:
        listed = ", ".join(map(str, sorted(warm)))
        super().__init__(
            f"version {version} of model {model!r} is not warm here: pin one of {listed}, or none for the live one"
        )


class NotExplained(Conflict):
    """A version has nothing that its predictions could be explained against."""

    def __init__(self, model: str, version: int) -> None:
        super().__init__(
            f"version {version} of model {model!r} has no reference rows to explain against: train it again, "
            "or register it with some"
        )


class NotDecidedHere(Conflict):
    """The registry decides that, and every instance follows."""

    def __init__(self, model: str, what: str, remedy: str) -> None:
        super().__init__(f"the registry decides {what}, of model {model!r}, not one instance: {remedy}")


class ModelBusy(Overloaded):
    """Too many requests of one version wait already; other models are not held up by them."""

    def __init__(self, version: str, waiting: int) -> None:
        super().__init__(
            f"{version} has {waiting} requests waiting here, which is the most: send it again later, or slower"
        )


class Forgotten(Unavailable):
    """An engine no longer has what was loaded into it; loading it again may help."""
