"""What the registry keeps: applied specs, versions, and who did what."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import Any, Literal, Self

from trimtab_core.auditchain import Line
from trimtab_core.gating import Gate

Document = Mapping[str, Any]
"""Plain data, as JSON has it."""


class Stage(StrEnum):
    """How far a version has come; a version that was replaced stays LIVE, with an end to its time."""

    REFUSED = "REFUSED"
    AWAITING_CHECKS = "AWAITING_CHECKS"
    AWAITING_APPROVAL = "AWAITING_APPROVAL"
    REJECTED = "REJECTED"
    ACCEPTED = "ACCEPTED"
    ON_TRIAL = "ON_TRIAL"
    LIVE = "LIVE"
    ROLLED_BACK = "ROLLED_BACK"
    RETIRED = "RETIRED"


@dataclass(frozen=True, slots=True)
class Applied:
    """A spec as applied."""

    kind: str
    name: str
    generation: int
    document: Document
    digest: str
    """sha256 of the document in canonical JSON."""
    applied_by: str
    applied_at_ms: int
    deleted: bool = False
    """Whether this generation took the spec away; `document` is what it was."""

    @property
    def key(self) -> str:
        """kind/name."""
        return f"{self.kind}/{self.name}"


@dataclass(frozen=True, slots=True)
class Change:
    """What applying one document came to."""

    kind: str
    name: str
    action: Literal["created", "changed", "unchanged"]
    generation: int


@dataclass(frozen=True, slots=True)
class StoredFile:
    """An artifact: where it is, what is in it (sha256, hex), and its size in bytes."""

    uri: str
    digest: str
    size: int


@dataclass(frozen=True, slots=True)
class Candidate:
    """What a run offers: the parts that decisions read, and `document`, which is all of it."""

    run_id: str
    evaluation: StoredFile
    champion_version: int
    """Evaluated beside it; 0 if there was none."""
    document: Document


@dataclass(frozen=True, slots=True)
class FinishedRun:
    """A run that succeeded."""

    id: str
    model: str
    loop_id: str
    as_of_ms: int
    candidate: Candidate


@dataclass(frozen=True, slots=True)
class CancelledRun:
    """A run that somebody ended before it came to anything."""

    id: str
    """Of the news."""
    run_id: str
    model: str
    loop_id: str
    actor: str
    reason: str
    at_ms: int


@dataclass(frozen=True, slots=True)
class Given:
    """One person's approval."""

    actor: str
    at_ms: int
    comment: str = ""


@dataclass(frozen=True, slots=True)
class Approval:
    """What a version waits for, as its model's spec was when it came, and who has approved so far."""

    by: tuple[str, ...] = ()
    """Roles; anybody if there are none."""
    approvers: int = 1
    comment: bool = False
    """Whether an approval needs one."""
    until_ms: int | None = None
    """When it is too late, by the wall clock."""
    given: tuple[Given, ...] = ()

    @property
    def is_complete(self) -> bool:
        """Whether enough people have approved."""
        return len(self.given) >= self.approvers

    def is_over(self, now_ms: int) -> bool:
        """Whether it is too late."""
        return self.until_ms is not None and now_ms >= self.until_ms

    def __str__(self) -> str:
        names = ", ".join(given.actor for given in self.given)
        return f"{len(self.given)} of {self.approvers}" + (f" ({names})" if names else "")


@dataclass(frozen=True, slots=True)
class Check:
    """What a tool outside said of a version."""

    name: str
    passed: bool
    actor: str
    roles: tuple[str, ...]
    """Of the actor, when it was posted."""
    at_ms: int
    comment: str = ""
    url: str = ""


@dataclass(frozen=True, slots=True)
class Checks:
    """What a version waits for from outside, as its model's spec was when it came, and what was posted last of each."""

    required: tuple[str, ...] = ()
    by: tuple[str, ...] = ()
    """Roles; anybody may post if there are none."""
    until_ms: int | None = None
    """When it is too late to wait, by the wall clock."""
    posted: tuple[Check, ...] = ()

    @property
    def pending(self) -> tuple[str, ...]:
        """The names that have still to be posted as passed."""
        passed = {check.name for check in self.posted if check.passed}
        return tuple(name for name in self.required if name not in passed)

    def is_over(self, now_ms: int) -> bool:
        """Whether it is too late."""
        return self.until_ms is not None and now_ms >= self.until_ms

    def having(self, check: Check) -> Self:
        """Return them with one more posted, in place of what was posted of its name before."""
        others = tuple(held for held in self.posted if held.name != check.name)
        return replace(self, posted=(*others, check))


@dataclass(frozen=True, slots=True)
class Version:
    """A numbered candidate of a model, with its lineage and what became of it."""

    model: str
    number: int
    stage: Stage
    candidate: Candidate
    gates: tuple[Gate, ...]
    loop_id: str
    traceparent: str | None
    as_of_ms: int
    created_at_ms: int
    live_from_ms: int | None = None
    live_to_ms: int | None = None
    approval: Approval | None = None
    """Of one that waits, or waited, for approval, or will once its checks have passed."""
    checks: Checks | None = None
    """Of one that waits, or waited, for checks from outside, or of which one was posted."""
    aliases: tuple[str, ...] = ()
    """That people gave."""
    tags: Mapping[str, str] = field(default_factory=dict)
    let_go_ms: int | None = None
    """Since when nothing refers to its files, which may be thrown away after a grace."""
    files_gone_ms: int | None = None
    """When its files were thrown away."""


@dataclass(frozen=True, slots=True)
class Listed:
    """A model in a list of many: what serves, and what waits for a person, by number."""

    name: str
    generation: int
    """Of its spec."""
    applied_by: str
    champion: int | None = None
    challenger: int | None = None
    waiting: Mapping[int, Approval] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class StageChange:
    """News of a version."""

    version: Version
    stage: Stage
    sentence: str
    actor: str
    at_ms: int
    generation: int
    """Of the model, at the change; it makes the news' id."""
    rollout_id: str = ""


@dataclass(frozen=True, slots=True)
class Tag:
    """A name for the dataset that a run was trained on."""

    name: str
    run_id: str
    model: str
    digest: str
    """Of the dataset's rows."""
    tagged_by: str
    tagged_at_ms: int


@dataclass(frozen=True, slots=True)
class Entry:
    """One line of the audit log; what makes it a link of the chain is given to it when it is recorded."""

    resource: str
    action: str
    actor: str
    reason: str
    at_ms: int
    details: Document = field(default_factory=dict)
    sequence: int = 0
    previous: str = ""
    hash: str = ""

    def following(self, sequence: int, previous: str) -> Self:
        """Return the entry as the log has it behind the one of `sequence`, whose hash is `previous`."""
        placed = replace(self, sequence=sequence + 1, previous=previous)
        return replace(placed, hash=placed.line.hash_after(previous))

    @property
    def line(self) -> Line:
        """What of it is hashed, beside the hash before."""
        return Line(
            self.sequence, self.resource, self.action, self.actor, self.reason, self.at_ms, self.details
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class AuditQuery:
    """Which entries of the audit log are meant; what is empty excludes none."""

    resource: str = ""
    actor: str = ""
    action: str = ""
    since_ms: int | None = None
    until_ms: int | None = None
    """Before here."""
    limit: int = 100
    """The newest so many."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """What the judge says of a challenger, and exactly which state it speaks about."""

    id: str
    model: str
    rollout_id: str
    step: int
    generation: int
    outcome: Literal["ADVANCE", "PROMOTE", "ROLL_BACK", "UNDECIDED"]
    sentence: str
    numbers: Document
    challenger: int = 0
    """The version that is promoted or rolled back; 0 for the only one."""


@dataclass(frozen=True, slots=True)
class Loaded:
    """A version on an instance."""

    number: int
    warm: bool
    error: str


@dataclass(frozen=True, slots=True)
class Status:
    """What one serving instance has of a model, good until its lease ends."""

    model: str
    instance: str
    generation: int
    champion: int
    versions: tuple[Loaded, ...]
    lease_until_ms: int

    def of(self, number: int) -> Loaded | None:
        """Return what it says of a version."""
        return next((loaded for loaded in self.versions if loaded.number == number), None)
