"""How a client calls a service: what a call fails with is ours, and names the service."""

from collections.abc import AsyncIterator
from typing import Any

import grpc
from trimtab_runtime import rpc
from trimtab_runtime.errors import TrimtabError, Unavailable


def failure(service: str, error: grpc.RpcError) -> TrimtabError:
    """Return the error of ours that a failed call of a service stands for."""
    known = rpc.error_of(error)
    return Unavailable(f"{service} cannot answer: {known}") if isinstance(known, Unavailable) else known


class Door:
    """One service's stub."""

    def __init__(self, service: str, stub: Any) -> None:
        self._service = service
        self._stub = stub

    def __getattr__(self, method: str) -> Any:
        call = getattr(self._stub, method)

        async def ask(request: Any, **options: Any) -> Any:
            try:
                return await call(request, **options)
            except grpc.RpcError as error:
                raise failure(self._service, error) from error

        return ask

    async def stream(self, method: str, request: Any, **options: Any) -> AsyncIterator[Any]:
        """Yield what a call answers, one by one; of a stream in both directions `request` is an iterator."""
        try:
            async for part in getattr(self._stub, method)(request, **options):
                yield part
        except grpc.RpcError as error:
            raise failure(self._service, error) from error
