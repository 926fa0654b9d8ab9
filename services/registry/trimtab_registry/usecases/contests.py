"""A/B tests that people begin, and trials that they end: named versions beside the champion, each with a fixed share of the keys.

A test is a rollout like any other: what is on trial gives way to it, and it gives way
to a newer candidate that is accepted. The judge, not the person, says which version is
promoted, if any; who ends a trial keeps the champion.
"""

from collections.abc import Sequence
from typing import Final

from trimtab_core.specs import MOST_ARMS, RolloutSpec, unfit_shares
from trimtab_runtime.clock import Clock

from trimtab_registry.errors import NotNow, UnfitTest, Unsigned
from trimtab_registry.usecases import lifecycle
from trimtab_registry.usecases.decisions import check_is_let_on, check_role
from trimtab_registry.usecases.entities import Stage, Version
from trimtab_registry.usecases.ports import Store
from trimtab_registry.usecases.roles import Roles
from trimtab_registry.usecases.rollouts import Standing

_CALLED: Final = {"ab": "A/B test", "canary": "canary", "shadow": "shadow"}


class Contests:
    """Begins A/B tests, and ends trials."""

    def __init__(self, store: Store, clock: Clock, roles: Roles) -> None:
        self._store = store
        self._clock = clock
        self._roles = roles

    async def begin(
        self, model: str, numbers: Sequence[int], shares: Sequence[int], *, actor: str, comment: str
    ) -> Standing:
        """Test versions beside the champion, each answering its share of the keys.

        Without `shares` it is those of the spec, if there are as many, and else all arms, the champion too, get the same.
        A version that its gates refused needs a comment, for it answers people all the same.

        Raises:
            UnknownModel, UnknownVersion: there is no such thing.
            Unsigned: nobody takes the decision, or it lacks its reason.
            UnfitTest: the versions, or their shares, make no test.
            NotTheirs: it is for the roles that approve the model's versions.
            NotNow: there is no champion to test them beside, or a version may not serve as things are.
        """
        if not actor:
            raise Unsigned("actor", "say who begins the test")
        applied = await lifecycle.known(self._store, model)
        spec = await lifecycle.model_spec(self._store, model)
        _check_numbers(model, numbers)
        shares = _shares(numbers, shares, spec.rollout)
        for number in numbers:
            check_role(self._roles, applied, number, actor, "is tested by")
        async with self._store.begin() as unit:
            standing, now = await unit.lock(model), self._clock.now_ms()
            for number in numbers:
                _may_be_tested(standing, await lifecycle.the_version(unit, model, number), comment)
            among = " and ".join(map(str, numbers))
            why = f"an A/B test of {among}, begun by {actor}" + (f": {comment}" if comment else "")
            standing = await lifecycle.drop(unit, standing, f"gave way to {why}", actor=actor, at_ms=now)
            versions = [await lifecycle.the_version(unit, model, number) for number in numbers]
            with lifecycle.step("test", versions[0]):
                return await lifecycle.open_rollout(
                    unit, standing, versions, "ab", shares, actor=actor, sentence=f"in {why}", at_ms=now
                )

    async def end(self, model: str, *, actor: str, comment: str) -> Standing:
        """End what is on trial, an A/B test, a canary or a shadow, without a winner: the champion stays.

        Raises:
            UnknownModel: there is no such model.
            Unsigned: nobody takes the decision.
            NotNow: nothing is on trial.
        """
        if not actor:
            raise Unsigned("actor", "say who ends the trial")
        await lifecycle.known(self._store, model)
        async with self._store.begin() as unit:
            standing, now = await unit.lock(model), self._clock.now_ms()
            trial = standing.trial
            if trial is None:
                raise NotNow(f"no version of {model!r} is on trial: there is nothing to end")
            if trial.strategy == "immediate":
                raise NotNow(
                    f"version {trial.challenger} of {model!r} becomes champion as soon as it is warm, and is on no trial: "
                    "wait for it, and roll back then"
                )
            first = await lifecycle.the_version(unit, model, trial.challenger)
            said = f"the {_CALLED[trial.strategy]} was ended by {actor}" + (f": {comment}" if comment else "")
            with lifecycle.step("end", first, trial):
                return await lifecycle.drop(unit, standing, said, actor=actor, at_ms=now)


def _check_numbers(model: str, numbers: Sequence[int]) -> None:
    if not numbers:
        raise UnfitTest(
            f"an A/B test of {model!r} has no arm beside the champion: name its versions, like 3 5 7"
        )
    if len(numbers) > MOST_ARMS:
        raise UnfitTest(
            f"{len(numbers)} versions are too many, for each scores every request: name {MOST_ARMS} at most"
        )
    twice = [number for at, number in enumerate(numbers) if number in numbers[:at]]
    if twice:
        raise UnfitTest(f"version {twice[0]} is named twice: name it once")


def _shares(numbers: Sequence[int], shares: Sequence[int], spec: RolloutSpec) -> Sequence[int]:
    """Return a share for each version."""
    if not shares:
        return spec.shares if len(spec.shares) == len(numbers) else [100 // (len(numbers) + 1)] * len(numbers)
    if len(shares) != len(numbers):
        raise UnfitTest(
            f"{list(shares)} are no shares of {len(numbers)} versions: give one to each, or none at all"
        )
    if sum(shares) > 100 or min(shares) < 1:
        raise UnfitTest(unfit_shares(shares))
    return shares


def _may_be_tested(standing: Standing, version: Version, comment: str) -> None:
    called = f"version {version.number} of {version.model!r}"
    if standing.champion is None:
        raise NotNow(f"model {version.model!r} has no champion to test versions beside: promote one first")
    if standing.champion == version.number:
        raise NotNow(f"{called} is the champion, which every test has beside its arms: leave it out")
    check_is_let_on(version)
    if version.stage is Stage.REFUSED and not comment:
        raise Unsigned(
            "comment", f"{called} was refused by its gates, so say why people should get its answers"
        )
