"""What was made of one history, each thing once: also by processes that live it side by side."""

import fcntl
import hashlib
import pickle
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any


class Shelf:
    """Keeps what was made, by what it was made of; in `folder` too, for the others who have it."""

    def __init__(self, folder: Path | None = None) -> None:
        self.folder = folder
        self._held: dict[Any, Any] = {}

    def once(self, key: Any, make: Callable[[], Any]) -> Any:
        """Return what is kept by a key, which tells by its repr what it is of; made now, if nobody has yet."""
        if key not in self._held:
            self._held[key] = make() if self.folder is None else self._among_others(self.folder, key, make)
        return self._held[key]

    def _among_others(self, folder: Path, key: Any, make: Callable[[], Any]) -> Any:
        with (folder / hashlib.sha256(repr(key).encode()).hexdigest()).open("a+b") as file:
            fcntl.flock(file, fcntl.LOCK_EX)  # whoever comes second waits; a process that ends lets go
            file.seek(0)
            if kept := file.read():
                return pickle.loads(kept)
            made = make()
            file.write(pickle.dumps(made))
            return made


@contextmanager
def opened(*, shared: bool) -> Iterator[Shelf]:
    """Open a shelf for one history; one that is `shared` has a folder while it is open."""
    if not shared:
        yield Shelf()
        return
    with TemporaryDirectory(prefix="trimtab-backtest-") as folder:
        yield Shelf(Path(folder))
