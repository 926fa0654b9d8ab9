"""Who has which role, as a setting says it: the registry authenticates nobody, and takes each for whom the client names."""

from collections.abc import Iterable, Mapping
from typing import Self

from trimtab_core import specs
from trimtab_runtime.errors import Fault

from trimtab_registry.errors import BadRoles

_REMEDY = "correct it, or set TRIMTAB_REGISTRY_ROLES of the registry"


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

    def held_by(self, actor: str) -> tuple[str, ...]:
        """Return the roles that somebody has, by name."""
        return tuple(sorted(role for role, people in self._people.items() if actor in people))

    def faults(self, model: specs.Model) -> list[Fault]:
        """Return why a model's candidates could never be approved, or their checks never be posted, if that is so."""
        asked, checks = model.spec.rollout.approval, model.spec.rollout.checks
        faults = [] if checks is None else self._nobodys(model, "checks", checks.by)
        if not isinstance(asked, specs.ApprovalSpec):
            return faults
        unknown = self._nobodys(model, "approval", asked.by)
        if not unknown and asked.approvers > len(people := self.of(asked.by)):
            said = f"{asked.approvers} have to approve, and {', '.join(sorted(people))} alone may: {_REMEDY}"
            unknown.append(Fault(model.key, "spec.rollout.approval.approvers", said))
        return faults + unknown

    def _nobodys(self, model: specs.Model, key: str, roles: Iterable[str]) -> list[Fault]:
        """Return the faults of roles that nobody has."""
        return [
            Fault(model.key, f"spec.rollout.{key}.by.{at}", f"{role!r} is a role that nobody has: {_REMEDY}")
            for at, role in enumerate(roles)
            if role not in self._people
        ]
