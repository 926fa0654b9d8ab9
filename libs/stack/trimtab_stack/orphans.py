"""Ends what a stack left running when its owner died.

On Linux the leash has done so already; this is for what it missed. A process is only ever ended after a check that it
is the one that was recorded, and not another that got its pid.
"""

import contextlib
import os
import signal

from trimtab_stack.errors import StackError
from trimtab_stack.state import State
from trimtab_stack.waiting import until

_END_SECONDS = 10.0


def end_orphans(left: State) -> list[str]:
    """SIGKILL the recorded processes that still run, wait until they are gone, and return their names.

    Only for a state whose owner is dead: all that a stack runs survives SIGKILL without losing what it acknowledged.
    """
    orphans = {name: identity for name, identity in left.processes.items() if identity.alive}
    for identity in orphans.values():
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(identity.pid, signal.SIGKILL)  # each child leads a group of its own
    if not until(lambda: not any(identity.alive for identity in orphans.values()), within=_END_SECONDS):
        pids = ", ".join(f"{name} (pid {who.pid})" for name, who in orphans.items() if who.alive)
        raise StackError(f"{pids} of an earlier stack cannot be ended: end them by hand")
    return list(orphans)
