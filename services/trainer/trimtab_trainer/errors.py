"""What the trainer refuses.

Rejected
├── RunFailed        a run cannot give a candidate; trying it again will not help
└── UnknownRun       (NotFound)
"""

from trimtab_runtime.errors import NotFound, Rejected


class RunFailed(Rejected):
    """This run cannot give a candidate."""


class UnknownRun(NotFound):
    """There is no such run."""

    def __init__(self, run_id: str) -> None:
        super().__init__(f"there is no run {run_id!r}: look at `trimtab run list`")
