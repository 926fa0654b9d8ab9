"""Asks the feature store whether serving sees what the archive says that it should see."""

from collections.abc import Sequence
from typing import Any

import grpc
from trimtab_contracts.features.v1.features_pb2 import AuditSkewRequest
from trimtab_contracts.features.v1.features_pb2_grpc import FeatureStoreStub
from trimtab_runtime import rpc
from trimtab_runtime.clock import to_timestamp

from trimtab_monitoring.usecases.skew import Skewed

_PATIENCE_S = 120


class FeatureStore:
    """The feature store, as monitoring needs it."""

    def __init__(self, channel: grpc.aio.Channel) -> None:
        self._stub: Any = FeatureStoreStub(channel)

    async def audit(self, model: str, *, since_ms: int, until_ms: int) -> Sequence[Skewed] | None:
        """Compare what serving logged of predictions of [since, until); None while the archive has not come so far.

        Raises:
            Unavailable: the feature store is away.
            Rejected: it knows no such model.
        """
        request = AuditSkewRequest(model=model, since=to_timestamp(since_ms), until=to_timestamp(until_ms))
        try:
            found = await self._stub.AuditSkew(request, timeout=_PATIENCE_S)
        except grpc.RpcError as error:
            raise rpc.error_of(error) from error
        if found.rows_past_archive:
            return None
        return [Skewed(it.name, it.rows, it.mismatched, it.missing, it.extra) for it in found.features]
