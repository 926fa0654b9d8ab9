"""Brings a user's own files to the trainer: a model, the rows that are usual for it, a wheel; and has versions made one.

A file is sent once: one that is kept already is sent again and changes nothing.
"""

import hashlib
import tempfile
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from trimtab_contracts.registry.v1.registry_pb2 import Member
from trimtab_contracts.training.v1 import training_pb2 as training
from trimtab_runtime.clock import from_timestamp, iso, to_timestamp
from trimtab_runtime.errors import Rejected

from trimtab import mlflowmodels
from trimtab.managing import Managing

_PART_BYTES = 1 << 20
_MOST_S = 600.0


@dataclass(frozen=True, slots=True)
class File:
    """A file to be sent, and what is in it."""

    name: str
    content: bytes

    @property
    def digest(self) -> str:
        """The sha256, in hex."""
        return hashlib.sha256(self.content).hexdigest()


def read(path: Path) -> File:
    """Return a file.

    Raises:
        Rejected: it cannot be read, or is empty.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise Rejected(f"{path} cannot be read ({error.strerror}): name another file") from error
    if not content:
        raise Rejected(f"{path} is empty: name another file")
    return File(path.name, content)


def model(named: str, tracking_uri: str = "") -> File:
    """Return the ONNX file that `named` is the path of, or the model of MLflow's that it names.

    Raises:
        Rejected, NotFound, Unavailable: there is none, or MLflow cannot give it.
    """
    if not mlflowmodels.is_one(named):
        return read(Path(named))
    with tempfile.TemporaryDirectory(prefix="trimtab-mlflow-") as folder:
        return File(named, mlflowmodels.fetch(named, tracking_uri, Path(folder)))


async def upload(trainer: Any, file: File) -> str:
    """Send a file, and return its digest."""

    async def parts() -> AsyncIterator[training.UploadRequest]:
        told = training.UploadRequest.File(name=file.name, digest=digest, size=len(file.content))
        yield training.UploadRequest(file=told)
        for at in range(0, len(file.content), _PART_BYTES):
            yield training.UploadRequest(content=file.content[at : at + _PART_BYTES])

    digest = file.digest
    await trainer.Upload(parts(), timeout=_MOST_S)
    return digest


async def register(
    trainer: Any, model: str, file: File, *, actor: str, comment: str, reference: File | None, trained_to_ms: int | None
) -> str:  # fmt: skip
    """Send a model and order its evaluation; return the command's id."""
    request = training.RegisterRequest(
        model=model,
        digest=await upload(trainer, file),
        reference=await upload(trainer, reference) if reference else "",
        origin=file.name,
        comment=comment,
        requested_by=actor,
    )
    if trained_to_ms is not None:
        request.trained_to.CopyFrom(to_timestamp(trained_to_ms))
    return str((await trainer.Register(request)).command_id)


async def combine(
    registry: Managing, trainer: Any, model: str, versions: Mapping[str, float], *, actor: str, comment: str
) -> str:
    """Order the evaluation of the mean of some versions; return the command's id.

    Raises:
        NotFound: one of them is not there.
        Rejected: the files of one of them went.
    """
    members = []
    for called, weight in versions.items():
        version = await registry.called(model, called)
        if version.HasField("files_gone"):
            raise Rejected(
                f"the files of version {version.number} of {model} went {iso(from_timestamp(version.files_gone))}: leave it out"
            )
        members.append(Member(version=version.number, run_id=version.candidate.run_id, weight=weight))
    request = training.CombineRequest(model=model, members=members, comment=comment, requested_by=actor)
    return str((await trainer.Combine(request)).command_id)
