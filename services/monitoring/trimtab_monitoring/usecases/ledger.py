"""Keeps the loop ledger: one row a loop, from what the other services tell.

When a loop ends the retrain policy hears of it in the same transaction, so the next
drift finds it free, and knows whether the retrain helped; and again where that turns
out later to be otherwise.
"""

from collections.abc import Callable

from trimtab_core import policy
from trimtab_runtime import telemetry
from trimtab_runtime.clock import Clock

from trimtab_monitoring.usecases import loops
from trimtab_monitoring.usecases.entities import Alert, Command, Loop
from trimtab_monitoring.usecases.loops import RunNews, StageNews
from trimtab_monitoring.usecases.ports import Store, Unit


class Ledger:
    """Writes loops down."""

    def __init__(self, store: Store, clock: Clock) -> None:
        self._store = store
        self._clock = clock

    async def commanded(self, command: Command) -> None:
        """A command was given, by the policy or by a person."""
        await self._follow(
            f"command/{command.id}",
            command.model,
            command.loop_id,
            lambda loop: loops.commanded(loop, command),
        )

    async def ran(self, run: RunNews) -> None:
        """Something became of a run."""
        await self._follow(f"run/{run.id}", run.model, run.loop_id, lambda loop: loops.ran(loop, run))

    async def staged(self, news: StageNews) -> None:
        """Something became of a version."""
        await self._follow(
            f"version/{news.id}", news.model, news.loop_id, lambda loop: loops.staged(loop, news)
        )

    async def _follow(self, id: str, model: str, loop_id: str, change: Callable[[Loop], Loop]) -> None:
        if not loop_id:
            return
        async with self._store.begin(model) as unit:
            if not await unit.first_sight(id):
                return
            before = await unit.loop(loop_id) or Loop(loop_id, model, traceparent=telemetry.traceparent())
            after = loops.timed(before, change(before), unit.watch.closed_ms)
            await unit.put_loop(after)
            await learn(unit, after)
            if after.state == "rolled_back" != before.state:
                await unit.tell([self._alert(after)])

    def _alert(self, loop: Loop) -> Alert:
        return Alert(
            id=f"{loop.id}/rolled_back/{loop.version}",
            subject=loop.model,
            severity="warning",
            kind="rollback",
            sentence=loop.outcome,
            at_ms=self._clock.now_ms(),
        )


async def learn(unit: Unit, loop: Loop) -> None:
    """Tell the retrain policy whether a loop that has ended helped; told again, it changes nothing but what has turned out since."""
    if not loops.has_ended(loop):
        return
    at_ms = loop.settled_ms if loop.settled_ms is not None else unit.watch.closed_ms
    state = policy.outcome(unit.policy, loops.helped(loop), at_ms / 1000, loop.command_id)
    if state != unit.policy:
        await unit.save_policy(state)
