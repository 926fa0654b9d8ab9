"""Who has which role, as a setting says it: the registry authenticates nobody, and takes each for whom the client names."""

from collections.abc import Iterable, Mapping
from typing import Self

from trimtab_core import specs
from trimtab_runtime.errors import Fault

from trimtab_registry.errors import BadRoles


class Roles:
    """People by role."""

    def __init__(self, people: Mapping[str, frozenset[str]] | None = None) -> None:
        self._people = people or {}

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read roles from a text such as `risk:ann,bob;ml:carl`.

        Raises:
            BadRoles: it is of another form.
        """
        people: dict[str, frozenset[str]] = {}
        for part in filter(None, map(str.strip, text.split(";"))):
            role, _, names = part.partition(":")
            held = frozenset(filter(None, map(str.strip, names.split(","))))
            if not role.strip() or not held or role.strip() in people:
                raise BadRoles(part)
            people[role.strip()] = held
        return cls(people)

    def of(self, roles: Iterable[str]) -> frozenset[str]:
        """Return who has one of some roles."""
        return frozenset[str]().union(*(self._people.get(role, ()) for role in roles))

    def faults(self, model: specs.Model) -> list[Fault]:
        """Return why a model's candidates could never be approved, if that is so."""
        asked = model.spec.rollout.approval
        if not isinstance(asked, specs.ApprovalSpec):
            return []
        remedy = "correct it, or set TRIMTAB_REGISTRY_ROLES of the registry"
        faults = [
            Fault(
                model.key, f"spec.rollout.approval.by.{at}", f"{role!r} is a role that nobody has: {remedy}"
            )
            for at, role in enumerate(asked.by)
            if role not in self._people
        ]
        if not faults and asked.approvers > len(people := self.of(asked.by)):
            said = f"{asked.approvers} have to approve, and {', '.join(sorted(people))} alone may: {remedy}"
            faults.append(Fault(model.key, "spec.rollout.approval.approvers", said))
        return faults
