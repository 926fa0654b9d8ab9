"""gRPC door of the feature store: features now, and features then."""

from collections.abc import AsyncIterator
from typing import Any

from trimtab_contracts.features.v1.features_pb2 import (
    GetArchiveWatermarkRequest,
    GetArchiveWatermarkResponse,
    GetHistoricalFeaturesRequest,
    GetOnlineFeaturesRequest,
    GetOnlineFeaturesResponse,
    HistoricalFeatures,
)
from trimtab_contracts.features.v1.features_pb2_grpc import FeatureStoreServicer
from trimtab_contracts.registry.v1.registry_pb2 import TableVersion
from trimtab_runtime.clock import Clock, from_timestamp, to_timestamp

from trimtab_feature_store.historical import EVER_MS, Historical, Wanted, arrow_pieces
from trimtab_feature_store.online import OnlineViews


class FeatureStoreApi(FeatureStoreServicer):
    """Answers `trimtab.features.v1.FeatureStore`."""

    def __init__(
        self, online: OnlineViews, historical: Historical, clock: Clock, *, patience_s: float
    ) -> None:
        self._online = online
        self._historical = historical
        self._clock = clock
        self._patience_s = patience_s

    async def GetOnlineFeatures(
        self, request: GetOnlineFeaturesRequest, context: Any
    ) -> GetOnlineFeaturesResponse:
        """Return the features of some entities at a time, or now."""
        at_ms = from_timestamp(request.at) if request.HasField("at") else self._clock.now_ms()
        answer = await self._online.get(request.view, list(request.entities), at_ms)
        response = GetOnlineFeaturesResponse(
            columns=answer.columns, values=answer.values.ravel().tolist(), found=answer.found
        )
        if answer.watermark_ms is not None:
            response.watermark.CopyFrom(to_timestamp(answer.watermark_ms))
        return response

    async def GetHistoricalFeatures(
        self, request: GetHistoricalFeaturesRequest, context: Any
    ) -> AsyncIterator[HistoricalFeatures]:
        """Return a model's training set: what it is, then its rows."""
        remaining_s = context.time_remaining()
        made = await self._historical.training_set(
            Wanted(
                model=request.model,
                start_ms=from_timestamp(request.start),
                end_ms=from_timestamp(request.end),
                as_of_ms=from_timestamp(request.as_of) if request.HasField("as_of") else EVER_MS,
                wait_until_ms=from_timestamp(request.wait_until),
            ),
            patience_s=self._patience_s if remaining_s is None else min(remaining_s * 0.9, self._patience_s),
        )
        yield HistoricalFeatures(
            dataset=HistoricalFeatures.Dataset(
                tables=[TableVersion(table=name, version=version) for name, version in made.versions.items()],
                rows=made.rows.num_rows,
                rows_without_label=made.rows_without_label,
                digest=made.digest,
            )
        )
        for piece in arrow_pieces(made.rows):
            yield HistoricalFeatures(arrow=piece)

    async def GetArchiveWatermark(
        self, request: GetArchiveWatermarkRequest, context: Any
    ) -> GetArchiveWatermarkResponse:
        """Return how far all that a model is trained on is archived."""
        reached_ms = await self._historical.watermark_ms(request.model)
        response = GetArchiveWatermarkResponse()
        if reached_ms is not None:
            response.watermark.CopyFrom(to_timestamp(reached_ms))
        return response
