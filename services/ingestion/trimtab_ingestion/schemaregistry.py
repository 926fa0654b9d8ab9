"""Asks a schema registry that speaks Confluent's API for the schemas that records were written with.

An id names one schema for ever. Only the registry's own word that it knows no such id
counts as that: whatever else it answers, or that it does not, is an outage.
"""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

import httpx
from trimtab_formats.errors import BadSchema
from trimtab_formats.schemas import Reference
from trimtab_runtime.errors import Unavailable

from trimtab_ingestion.errors import BadRegistryAddress

_PATIENCE_S = 10.0
_AT_ONCE = 8
_UNKNOWN = (40401, 40402, 40403)
"""Its words for a subject, a version and a schema that are not there; a wrong address has others."""


@dataclass(frozen=True, slots=True)
class Registered:
    """A schema as it was registered."""

    type: str
    """`AVRO`, `PROTOBUF` or `JSON`."""
    text: str
    references: Sequence[Reference]
    """What it refers to, and what that does; each comes before what needs it."""


class SchemaRegistry:
    """The registry at one address."""

    def __init__(self, client: httpx.AsyncClient) -> None:
        self._client = client
        self._turns = asyncio.Semaphore(_AT_ONCE)

    async def schema(self, id: int) -> Registered | None:
        """Return the schema of an id, None if there is none.

        Raises:
            BadSchema: it refers to what is not there.
            Unavailable: the registry is away.
        """
        found = await self._get(f"schemas/ids/{id}")
        if found is None:
            return None
        references: dict[str, Reference] = {}
        await self._refer(found, references)
        return Registered(found.get("schemaType") or "AVRO", found["schema"], tuple(references.values()))

    async def _refer(self, schema: Any, found: dict[str, Reference]) -> None:
        """Find what a schema refers to; no registry has a schema that refers to itself."""
        for each in schema.get("references") or ():
            name, subject, version = str(each["name"]), str(each["subject"]), each["version"]
            if name in found:
                continue
            below = await self._get(f"subjects/{quote(subject, safe='')}/versions/{version}")
            if below is None:
                raise BadSchema(
                    f"it refers to {name!r}, which would be version {version} of {subject!r} and is not there"
                )
            await self._refer(below, found)
            found[name] = Reference(name, below["schema"])

    async def _get(self, path: str) -> dict[str, Any] | None:
        where = f"the schema registry at {self._client.base_url}"
        try:
            async with self._turns, asyncio.timeout(_PATIENCE_S):
                answer = await self._client.get(path)
        except (httpx.HTTPError, TimeoutError) as error:
            raise Unavailable(f"{where} does not answer: {error!r}") from error
        try:
            found = answer.json()
        except ValueError:
            found = None
        if not isinstance(found, dict):
            found = {}
        if answer.status_code == httpx.codes.NOT_FOUND and found.get("error_code") in _UNKNOWN:
            return None
        if answer.status_code != httpx.codes.OK or not isinstance(found.get("schema"), str):
            said = f"{where} answers {answer.status_code} to {path}"
            raise Unavailable(f"{said}: see to it, or mend TRIMTAB_INGESTION_SCHEMA_REGISTRY_URL")
        return found


@asynccontextmanager
async def open_registry(address: str | None) -> AsyncIterator[SchemaRegistry | None]:
    """Have the registry at `address`, which may hold user:password; none if there is no address.

    Raises:
        BadRegistryAddress: it is none.
    """
    if address is None:
        yield None
        return
    try:
        url = httpx.URL(address)
    except httpx.InvalidURL:
        raise BadRegistryAddress from None
    if url.scheme not in ("http", "https") or not url.host:
        raise BadRegistryAddress
    auth = (url.username, url.password) if url.userinfo else None
    # An address with a password would stand in every error.
    async with httpx.AsyncClient(
        base_url=url.copy_with(username=None, password=None), auth=auth, timeout=_PATIENCE_S
    ) as client:
        yield SchemaRegistry(client)
