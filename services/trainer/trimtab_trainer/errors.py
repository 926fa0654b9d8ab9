"""What the trainer refuses.

Rejected
├── BadTrackingUri   a setting names no MLflow server
├── NothingArchived  a model has nothing yet that it could be trained on
├── BadEnsemble      what cannot be one version
├── BadNote          a note that says nothing, too much, or is nobody's
├── UnknownRun       (NotFound)
├── NoLog            (NotFound) a run has left no log
└── RunEnded         (Conflict) a run is over, and cannot be cancelled

Unavailable
└── NurseryLost      the process that runs are forked from has ended

A run that cannot give a candidate is `trimtab_training.errors.RunFailed`.
"""

from trimtab_runtime.errors import Conflict, NotFound, Rejected, Unavailable


class BadTrackingUri(Rejected):
    """The setting for MLflow names none that can be told anything."""

    def __init__(self, uri: str) -> None:
        super().__init__(
            f"TRIMTAB_TRAINER_MLFLOW_TRACKING_URI (or MLFLOW_TRACKING_URI) is {uri!r}, which is no server: write "
            "http://host:port, or leave it empty"
        )


class NothingArchived(Rejected):
    """A model has nothing yet that it could be trained on."""

    def __init__(self, model: str) -> None:
        super().__init__(
            f"model {model!r} has nothing to be trained on: not all of its sources have archived events; "
            "send some, or say as of when to train, and the run will wait for them"
        )


class BadEnsemble(Rejected):
    """What is named cannot become one version."""


class BadNote(Rejected):
    """A note that says nothing, too much, or is nobody's."""


class UnknownRun(NotFound):
    """There is no such run."""

    def __init__(self, run_id: str) -> None:
        super().__init__(f"there is no run {run_id!r}: look at `trimtab run list`")


class NoLog(NotFound):
    """A run has left no log."""

    def __init__(self, run_id: str) -> None:
        super().__init__(
            f"run {run_id!r} has no log: its training process has not ended yet, or never started; "
            f"`trimtab run show {run_id}` has what is known of it"
        )


class RunEnded(Conflict):
    """A run is over, and cannot be cancelled."""

    def __init__(self, run_id: str, status: str) -> None:
        way_on = ": reject or roll back its version instead" if status == "succeeded" else ""
        super().__init__(f"run {run_id!r} has {status} and cannot be cancelled{way_on}")


class NurseryLost(Unavailable):
    """The process that runs are forked from has ended, and the run's with it."""

    def __init__(self) -> None:
        super().__init__(
            "the process that runs are forked from has ended: the run begins again; if it does so each time, see what "
            "the trainer printed"
        )
