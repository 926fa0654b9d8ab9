"""What the registry refuses.

Rejected
├── BadRoles          a setting that does not say who has which role
├── BadSpecs          documents that cannot be applied, with every fault
├── NotTheirs         a decision that is for others to take
├── Unsigned          a decision of nobody, or one without its reason
├── BadEvaluation     an evaluation that gates cannot read
├── UnfitTest         versions and shares that make no A/B test
├── BadTag            what cannot be the name of a dataset
├── BadName           what cannot be an alias or a tag of a version
├── BadRetention      a setting that is no time, or asks for nothing to be thrown away
├── NotFound          UnknownResource, UnknownModel, UnknownVersion, UnknownAlias, UnknownRun, UnknownTag, UnknownCheck,
│                     NoEvidence
└── Conflict          ColumnsInUse, FixedPartitions, NeededResource, NotNow
"""

from collections.abc import Iterable, Sequence

from trimtab_runtime.errors import Conflict, Fault, NotFound, Rejected


class BadRoles(Rejected):
    """The setting does not say who has which role."""

    def __init__(self, part: str) -> None:
        super().__init__(
            f"TRIMTAB_REGISTRY_ROLES holds {part!r}, which is no role with people of its own: write each role once, "
            "like risk:ann,bob;ml:carl"
        )


class BadSpecs(Rejected):
    """Documents that cannot be applied; it says everything that is wrong with them, a line each."""

    def __init__(self, faults: Sequence[Fault]) -> None:
        super().__init__(faults=faults)


class FixedPartitions(Conflict):
    """A change that would need other partitions in topics that exist."""

    def __init__(self, faults: Sequence[Fault]) -> None:
        super().__init__(faults=faults)


class ColumnsInUse(Conflict):
    """A change that would take features from versions that serve, or may serve at once."""

    def __init__(self, faults: Sequence[Fault]) -> None:
        super().__init__(faults=faults)


class UnfitTest(Rejected):
    """Versions and shares that make no A/B test."""


class UnknownResource(NotFound):
    """Nothing of that kind and name has been applied."""

    def __init__(self, kind: str, name: str) -> None:
        super().__init__(f"there is no {kind} {name!r}: apply its spec first, or correct the name")


class UnknownModel(UnknownResource):
    """No such model has been applied."""

    def __init__(self, name: str) -> None:
        super().__init__("Model", name)


class UnknownVersion(NotFound):
    """The model has no version of that number."""

    def __init__(self, model: str, number: int) -> None:
        super().__init__(
            f"model {model!r} has no version {number}: look at its versions and name one of them"
        )


class UnknownGeneration(NotFound):
    """The spec has no such generation."""

    def __init__(self, kind: str, name: str, generation: int, newest: int) -> None:
        super().__init__(
            f"{kind} {name!r} has no generation {generation}: name one from 1 to {newest}, as `trimtab history` lists them"
        )


class UnknownAlias(NotFound):
    """The model has no version that is called so."""

    def __init__(self, model: str, called: str) -> None:
        super().__init__(
            f"model {model!r} has no version that is called {called!r}: look at `trimtab model versions {model}`"
        )


class UnknownRun(NotFound):
    """No version was made of such a run, so there is no dataset of it."""

    def __init__(self, run_id: str) -> None:
        super().__init__(f"no version was made of a run {run_id!r}: name one of `trimtab get datasets`")


class UnknownTag(NotFound):
    """No dataset is tagged so."""

    def __init__(self, name: str) -> None:
        super().__init__(f"no dataset is tagged {name!r}: look at `trimtab get datasets`")


class NoEvidence(NotFound):
    """A version came without evidence."""

    def __init__(self, run_id: str) -> None:
        super().__init__(
            f"the version of run {run_id!r} came without evidence, from a trainer of an earlier release: train again"
        )


class BadTag(Rejected):
    """What cannot be the name of a dataset."""

    def __init__(self, name: str, why: str) -> None:
        super().__init__(f"tag {name!r} {why}")


class BadName(Rejected):
    """What cannot be an alias, or a tag, of a version."""

    def __init__(self, what: str, name: str, why: str) -> None:
        super().__init__(f"{what} {name!r} {why}")


class BadRetention(Rejected):
    """Artifacts cannot be kept as a setting says."""


class NeededResource(Conflict):
    """A spec that others lean on is to go."""

    def __init__(self, kind: str, name: str, by: Sequence[str]) -> None:
        super().__init__(
            f"{kind} {name!r} is needed by {', '.join(by)}: delete those first, or change them so that they do without"
        )


class UnknownCheck(NotFound):
    """No check of that name is waited for."""

    def __init__(self, model: str, name: str, known: Iterable[str]) -> None:
        there = ", ".join(known)
        remedy = f"post one of {there}" if there else "name it in rollout.checks of the model's spec first"
        super().__init__(f"model {model!r} waits for no check {name!r}: {remedy}")


class NotNow(Conflict):
    """The version, or its model, is not in a state that allows it."""


class NotTheirs(Rejected):
    """It is for others to decide."""

    def __init__(
        self, model: str, number: int, actor: str, roles: Sequence[str], may: Iterable[str], what: str = "waits for"
    ) -> None:  # fmt: skip
        who = ", ".join(sorted(may)) or "somebody whom TRIMTAB_REGISTRY_ROLES gives one"
        super().__init__(
            f"version {number} of {model!r} {what} people with the role {' or '.join(roles)}, which {actor} has not: "
            f"ask {who}"
        )


class Unsigned(Rejected):
    """A decision needs someone who takes it, and one against the evidence needs a reason."""

    def __init__(self, field: str, why: str) -> None:
        super().__init__(f"{field} is empty: {why}")


class BadEvaluation(Rejected):
    """The evaluation of a candidate is not one that gates can read."""
