"""How an accepted candidate comes to serve: who is asked, in which steps, and what takes it back."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field
from pydantic_core import PydanticCustomError

from trimtab_core.durations import parse_duration
from trimtab_core.specs.base import Name, Place, Spec, shown_value
from trimtab_core.specs.gates import MetricName
from trimtab_core.specs.values import Duration


class ApprovalSpec(Spec):
    """Who has to approve a candidate that has passed its gates, before it may serve."""

    by: tuple[Name, ...] = Field(min_length=1)
    """Roles; who has one of them may approve or reject. Who has which is a setting of the registry."""
    approvers: int = Field(default=1, ge=1, le=20)
    """How many different people have to approve."""
    comment: bool = False
    """Whether an approval needs a comment."""
    expires: Duration | None = None
    """How long a candidate waits, by the wall clock, for people are waited for; then it is rejected."""


class ChecksSpec(Spec):
    """Which tools outside have to say that a candidate is well, after its gates and before people are asked."""

    required: tuple[Name, ...] = Field(min_length=1)
    """What they post, such as `smoke`: all have to be posted as passed."""
    by: tuple[Name, ...] = ()
    """Roles; who has one of them may post. Anybody may, if none is named."""
    expires: Duration | None = None
    """How long a candidate waits, by the wall clock; then it is rejected."""

    def _disagreements(self) -> Iterator[tuple[Place, str]]:
        for index, name in enumerate(self.required):
            if name in self.required[:index]:
                yield ("required", index), f"{name!r} is named twice: keep one of them"


def _checks(value: Any) -> Any:
    if isinstance(value, list | tuple):
        return {"required": value}
    if value is None or isinstance(value, Mapping | ChecksSpec):
        return value
    said = f"{shown_value(value)} is not allowed: write names, like [smoke], or who posts them too, like {{required: [smoke], by: [ci]}}"
    raise PydanticCustomError("unfit", "{said}", {"said": said})


def _approval(value: Any) -> Any:
    if isinstance(value, Mapping):
        return ApprovalSpec.model_validate(value)  # of a union, each form would tell what is wrong with it
    if value in ("auto", "manual") or isinstance(value, ApprovalSpec):
        return value
    said = f"{shown_value(value)} is not allowed: write auto, manual or who approves, like {{by: [risk], approvers: 2}}"
    raise PydanticCustomError("unfit", "{said}", {"said": said})


MOST_ARMS = 8
"""Versions in one A/B test: each of them scores every request."""


def unfit_shares(shares: Sequence[int]) -> str:
    """Return what is wrong with shares of an A/B test that are none, too many, or more than everything."""
    return f"{list(shares)} share out {sum(shares)} % of the keys among {len(shares)} arms: give 1 to {MOST_ARMS} arms 100 % at most, like [30, 30]"


class GuardrailsSpec(Spec):
    """When a challenger is taken back without waiting for labels: requests that it fails or is slow at, and the champion is not."""

    failures: float = Field(default=0.01, ge=0, lt=1)
    """The share of requests that it may fail beyond the champion's."""
    slow: float = Field(default=0.05, ge=0, lt=1)
    """The share of requests that it may be slow at beyond the champion's."""
    latency: Duration | None = None
    """From how long on a run of a version is slow; if not given, that follows from the champion's runs."""
    slower: float = Field(default=3.0, ge=1)
    """A run is slow from so many times the champion's 99th percentile on."""
    least: Duration = parse_duration("10ms")
    """No run that is shorter is slow, whatever the champion's."""
    alpha: float = Field(default=0.01, gt=0, lt=0.5)
    """The chance that one within all this is taken back for it, over the whole rollout."""


class RolloutSpec(Spec):
    """How an accepted candidate comes to serve."""

    strategy: Literal["immediate", "shadow", "canary", "ab"] = "canary"
    steps: tuple[Annotated[int, Field(ge=1, le=100)], ...] = (10, 50, 100)
    """Percent of the keys that the challenger answers at each step of a canary."""
    shares: tuple[Annotated[int, Field(ge=1, le=100)], ...] = (50,)
    """Percent of the keys that each arm of an A/B test answers until it ends; the champion answers the rest."""
    judge: MetricName | None = None
    """The loss that champion and challenger are compared on; by default mae or log_loss, by the task."""
    cap: float | None = Field(default=None, gt=0)
    """A row's loss counts at most this much, so that one monster row decides nothing."""
    alpha: float = Field(default=0.05, gt=0, lt=0.5)
    within: Duration = parse_duration("14d")
    guardrails: GuardrailsSpec = GuardrailsSpec()
    checks: Annotated[ChecksSpec | None, BeforeValidator(_checks)] = None
    """What tools outside have to post: names like `[smoke]`, or with who may post them and until when."""
    approval: Annotated[ApprovalSpec | Literal["auto", "manual"], BeforeValidator(_approval)] = "auto"
    """Whether a candidate that has passed its gates waits for a person: `manual` for anybody, or for whom it says."""

    @property
    def ladder(self) -> tuple[int, ...]:
        """Percent of the keys that an accepted candidate answers, step by step, where its strategy lets it answer any."""
        return self.shares[:1] if self.strategy == "ab" else self.steps

    def _disagreements(self) -> Iterator[tuple[Place, str]]:
        if list(self.steps) != sorted(set(self.steps)) or not self.steps:
            yield (
                ("steps",),
                f"{list(self.steps)} do not rise: write shares that grow, like [10, 50, 100]",
            )
        if not 1 <= len(self.shares) <= MOST_ARMS or sum(self.shares) > 100:
            yield ("shares",), unfit_shares(self.shares)
