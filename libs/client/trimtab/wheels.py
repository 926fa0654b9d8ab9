"""Files that a spec names by path, which `apply` sends: a trainer's wheel, and its lock.

What is applied names them by what is in them, so a changed file is a changed spec, and
one that is only built anew and is the same is none.
"""

from collections.abc import Iterator
from pathlib import Path
from zipfile import BadZipFile, ZipFile

from trimtab_core import specs
from trimtab_runtime.errors import Rejected

from trimtab import registering
from trimtab.registering import File

_FIELDS = ("wheel", "lock")


class Unsent(Rejected):
    """A file that a spec names cannot be sent."""

    def __init__(self, field: str, said: str) -> None:
        super().__init__(f"trainer.{field}: {said}")
        self.place: specs.Place = ("spec", "trainer", field)
        self.said = said


def pinned(resource: specs.Resource, folder: Path) -> tuple[specs.Resource, list[File]]:
    """Return a resource with its files named by their digests, and the files, whose paths begin at `folder`.

    Raises:
        Unsent: one cannot be read, or is no wheel.
    """
    if not isinstance(resource, specs.Model):
        return resource, []
    found = dict(_files(resource.spec.trainer, folder))
    if not found:
        return resource, []
    named = {field: specs.pinned(file.name, file.digest) for field, file in found.items()}
    trainer = resource.spec.trainer.model_copy(update=named)
    spec = resource.spec.model_copy(update={"trainer": trainer})
    return resource.model_copy(update={"spec": spec}), list(found.values())


def _files(trainer: specs.TrainerSpec, folder: Path) -> Iterator[tuple[str, File]]:
    for field in _FIELDS:
        path = getattr(trainer, field)
        if path is None or specs.PINNED.fullmatch(path):
            continue
        try:
            file = registering.read(folder / path)
        except Rejected as error:
            remedy = "; build it, with `python -m build --wheel`" if field == "wheel" else ""
            raise Unsent(field, f"{error}{remedy}") from error
        if field == "wheel":
            _check(folder / path)
        yield field, file


def _check(path: Path) -> None:
    try:
        with ZipFile(path) as wheel:
            is_one = any(name.endswith(".dist-info/WHEEL") for name in wheel.namelist())
    except BadZipFile:
        is_one = False
    if not is_one:
        raise Unsent("wheel", f"{path} is no wheel: build one, with `python -m build --wheel`")
