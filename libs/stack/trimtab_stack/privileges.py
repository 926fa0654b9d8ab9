"""PostgreSQL refuses to run as root: this says as whom to run it instead.

As root, a user namespace is best: inside it we are `nobody`, outside still ourselves, so the binaries and the data are
readable wherever they lie. Where the system forbids that (some containers), the real `nobody` is used, and then every
folder on the way must be open to all.
"""

import os
import shutil
import subprocess
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from trimtab_stack.errors import MissingPostgres

NOBODY = 65534
_NAMESPACE = ("unshare", "--user", f"--map-user={NOBODY}", f"--map-group={NOBODY}")


@dataclass(frozen=True, slots=True)
class Privileges:
    """As whom to run a program that will not run as root."""

    through: tuple[str, ...] = ()
    """A command that runs the program in its own place."""
    user: int | None = None
    """The uid and gid to change to; None stays as we are."""

    def give(self, directory: Path) -> None:
        """Make `directory`, and all in it, belong to the user that the program will run as."""
        owner = os.geteuid() if self.user is None else self.user
        if directory.stat().st_uid != owner:
            for path in (directory, *directory.rglob("*")):
                os.chown(path, owner, owner, follow_symlinks=False)

    def check(self, *paths: Path) -> None:
        """Raise `MissingPostgres` if the user that the program will run as cannot reach all of `paths`."""
        if self.user is None:
            return
        for path in paths:
            for folder in (path, *path.parents):
                if folder.exists() and not folder.stat().st_mode & 0o001:
                    raise MissingPostgres(
                        f"PostgreSQL does not run as root, and uid {self.user} may not enter {folder}: "
                        "run as an ordinary user, or open that folder"
                    )


def unprivileged() -> Privileges:
    """Return as whom to run a program that will not run as root; as ourselves if we are not root."""
    if os.geteuid() != 0:
        return Privileges()
    return Privileges(through=_NAMESPACE) if _namespaces_work() else Privileges(user=NOBODY)


@cache
def _namespaces_work() -> bool:
    if not shutil.which(_NAMESPACE[0]):
        return False
    return subprocess.run([*_NAMESPACE, "true"], capture_output=True).returncode == 0
