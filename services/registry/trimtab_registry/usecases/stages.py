"""How far a version comes, and the only ways in which that changes.

`STAGES` is the whole of it: what it does not list is refused, whoever asks. It says
what may become of one version; which of them serves is `rollouts.MOVES`.
"""

from collections.abc import Mapping

from trimtab_registry.usecases.entities import Stage

BORN = (Stage.REFUSED, Stage.AWAITING_CHECKS, Stage.AWAITING_APPROVAL, Stage.ACCEPTED)
"""What a version may be as it comes from its run."""

STAGES: Mapping[Stage, frozenset[Stage]] = {
    # A person may let it serve all the same.
    Stage.REFUSED: frozenset({Stage.ACCEPTED, Stage.RETIRED}),
    # Refused is one whose champion was replaced meanwhile, so that what it was compared with is gone.
    Stage.AWAITING_CHECKS: frozenset(
        {Stage.AWAITING_APPROVAL, Stage.ACCEPTED, Stage.REFUSED, Stage.REJECTED}
    ),
    Stage.AWAITING_APPROVAL: frozenset({Stage.ACCEPTED, Stage.REJECTED}),
    Stage.REJECTED: frozenset({Stage.RETIRED}),
    # Without a champion to be judged against, or hurried, it goes live without a trial. It is retired from here only where
    # it is the champion already, serving has not said so yet, and the whole model is taken out of service.
    Stage.ACCEPTED: frozenset({Stage.ON_TRIAL, Stage.LIVE, Stage.ROLLED_BACK, Stage.RETIRED}),
    Stage.ON_TRIAL: frozenset({Stage.LIVE, Stage.ROLLED_BACK, Stage.RETIRED}),
    # One that was replaced stays live, and may be promoted, restored or retired; live again is another time of it.
    Stage.LIVE: frozenset({Stage.LIVE, Stage.ACCEPTED, Stage.ROLLED_BACK, Stage.RETIRED}),
    # The one before is restored even where it was taken back itself, for serving has it warm.
    Stage.ROLLED_BACK: frozenset({Stage.ACCEPTED, Stage.LIVE, Stage.ROLLED_BACK, Stage.RETIRED}),
    Stage.RETIRED: frozenset(),
}
"""From -> to, one line for each stage."""


class IllegalStage(ValueError):
    """No version goes that way."""


def check(model: str, number: int, before: Stage, after: Stage) -> None:
    """Refuse what `STAGES` does not have; a version's first stage, told when it is made, is no change.

    Raises:
        IllegalStage: it has no such move.
    """
    if after not in STAGES[before] and not (before is after and after in BORN):
        raise IllegalStage(f"version {number} of {model!r} cannot go from {before.value} to {after.value}")
