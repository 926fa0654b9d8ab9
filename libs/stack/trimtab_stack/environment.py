"""The environment that a child process starts with: the only place besides `__main__` that reads our own."""

import os
from collections.abc import Mapping

_KEPT = "TRIMTAB_CACHE"


def inherited() -> dict[str, str]:
    """Return our environment (PATH, HOME, JAVA_HOME, proxies, ...) without what configures Trimtab's services.

    What configures them is passed on purpose and by name, so that a stray variable cannot point a test at another
    stack's Kafka.
    """
    ours = os.environ.copy()  # noqa: TID251  a child needs PATH and HOME; this module is the one place for it
    return {name: value for name, value in ours.items() if name == _KEPT or not name.startswith("TRIMTAB_")}


def tools(environ: Mapping[str, str] | None = None) -> dict[str, str]:
    """Return where tools and caches are looked for: our environment, and `environ` over it."""
    return inherited() | dict(environ or {})
