"""What the trainer refuses.

Rejected
├── RunFailed        a run cannot give a candidate; trying it again will not help
├── NothingArchived  a model has nothing yet that it could be trained on
└── UnknownRun       (NotFound)
"""

from trimtab_runtime.errors import NotFound, Rejected


class RunFailed(Rejected):
    """This run cannot give a candidate."""


class NothingArchived(Rejected):
    """A model has nothing yet that it could be trained on."""

    def __init__(self, model: str) -> None:
        super().__init__(
            f"model {model!r} has nothing to be trained on: not all of its sources have archived events; "
            "send some, or say as of when to train, and the run will wait for them"
        )


class UnknownRun(NotFound):
    """There is no such run."""

    def __init__(self, run_id: str) -> None:
        super().__init__(f"there is no run {run_id!r}: look at `trimtab run list`")
