"""Does the same to several parts at once, and fails at once."""

from collections.abc import Callable, Collection, Iterable
from concurrent.futures import Future, ThreadPoolExecutor, as_completed
from typing import Protocol

from trimtab_stack.processes import ChildProcess
from trimtab_stack.waiting import until

_GIVE_UP_SECONDS = 60.0


class Part(Protocol):
    """Anything that a stack runs: the servers and the services alike."""

    @property
    def process(self) -> ChildProcess:
        """The process that it runs as."""

    def start(self) -> None:
        """Start, and return once it is ready; nothing happens if it runs."""

    def stop(self) -> None:
        """End it in an orderly way."""


def together(act: Callable[[Part], None], parts: Iterable[Part]) -> None:
    """Call `act` with each of `parts`, all at once, and return when all have been.

    The first failure, or an interruption of this thread, kills them all and is raised: none is waited for that could
    not succeed any more, and none comes up later.
    """
    parts = list(parts)
    if not parts:
        return
    with ThreadPoolExecutor(len(parts), thread_name_prefix="trimtab-part") as threads:
        doing = [threads.submit(act, part) for part in parts]
        try:
            for done in as_completed(doing):
                done.result()
        except BaseException:
            abandon(parts, doing)
            raise


def abandon(parts: Collection[Part], doing: Collection[Future[None]]) -> None:
    """Kill `parts` until what was being done to them has given up."""

    def all_ended() -> bool:
        for part in parts:
            part.process.kill()
        return all(each.done() for each in doing)

    until(all_ended, within=_GIVE_UP_SECONDS)
    all_ended()  # once more: the last to end may have started a process before it did
