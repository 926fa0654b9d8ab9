"""Runs a program that dies with the thread that started it: `python leash.py PARENT SIGNAL USER PROGRAM ARGUMENT...`.

Linux sends SIGNAL to this process when its parent thread ends, however it ends, SIGKILL included (elsewhere there is no
such thing, and the program just runs). The program takes this process's place, so its pid is the one that was started.
USER is a uid and gid to change to, or `-`; it is changed here, since a change of user takes the leash off. Run as a
file, not as a module: it imports nothing of Trimtab and costs about 20 ms.
"""

import ctypes
import os
import sys

PR_SET_PDEATHSIG = 1


def main(parent: int, signal: int, user: int | None, program: list[str]) -> None:
    """Ask for `signal` at the parent's death, then become `program`."""
    if user is not None:
        os.setgroups([])
        os.setgid(user)
        os.setuid(user)
    if sys.platform == "linux":
        if ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signal, 0, 0, 0) != 0:
            sys.exit(f"prctl(PR_SET_PDEATHSIG) failed: {os.strerror(ctypes.get_errno())}")
        if os.getppid() != parent:  # it died before the line above
            sys.exit("the process that started this one has ended")
    try:
        os.execvp(program[0], program)
    except OSError as error:
        sys.exit(f"cannot run {program[0]}: {error.strerror}")


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), None if sys.argv[3] == "-" else int(sys.argv[3]), sys.argv[4:])
