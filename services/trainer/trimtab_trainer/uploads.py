"""Files that users send: a model that they bring along, the rows that are usual for it, a trainer of their own.

A file is kept once it is whole and what its digest says, under that digest, and nobody
has heard of it before. What is cut off, too long or something else leaves nothing.
"""

import asyncio
import hashlib
import tempfile
from collections.abc import AsyncIterator
from pathlib import Path

from trimtab_contracts.training.v1.training_pb2 import UploadRequest
from trimtab_runtime.errors import Rejected

from trimtab_trainer.usecases.entities import StoredFile
from trimtab_trainer.usecases.ports import Artifacts

MOST_BYTES = 1 << 30


class Uploads:
    """Takes files in."""

    def __init__(self, files: Artifacts, folder: Path) -> None:
        """`folder` is where a file lies until it is whole."""
        self._files = files
        self._folder = folder

    async def take(self, parts: AsyncIterator[UploadRequest]) -> StoredFile:
        """Store a file: first what it is, then its bytes.

        Raises:
            Rejected: it is too large, cut off, or not what its digest says.
        """
        told = (await anext(parts, UploadRequest())).file
        if not told.digest:
            raise Rejected("the first part of an upload says what is sent: name, digest and size")
        if not 0 < told.size <= MOST_BYTES:
            raise Rejected(
                f"{told.name!r} has {told.size:,} bytes, and a file has 1 to {MOST_BYTES:,}: send a smaller one"
            )
        self._folder.mkdir(parents=True, exist_ok=True)
        digest, size = hashlib.sha256(), 0
        with tempfile.NamedTemporaryFile(dir=self._folder) as file:
            async for part in parts:
                size += len(part.content)
                if size > told.size:
                    raise Rejected(
                        f"{told.name!r} is longer than the {told.size:,} bytes that were announced: send it anew"
                    )
                await asyncio.to_thread(file.write, part.content)
                digest.update(part.content)
            file.flush()
            if size < told.size or digest.hexdigest() != told.digest:
                raise Rejected(
                    f"{told.name!r} came as {size:,} bytes of sha256 {digest.hexdigest()[:12]}, and {told.size:,} of "
                    f"{told.digest[:12]} were announced: it changed on the way, or while it was read; send it anew"
                )
            return await asyncio.to_thread(self._files.put, Path(file.name))

    def find(self, digest: str) -> StoredFile:
        """Return a file that was taken in, by its digest.

        Raises:
            NotFound: there is none.
        """
        return self._files.find(digest)
