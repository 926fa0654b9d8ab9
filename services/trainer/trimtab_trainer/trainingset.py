"""Asks the feature store for training sets, and keeps them as files."""

from pathlib import Path
from typing import Any

import grpc
from google.protobuf import json_format
from trimtab_contracts.features.v1.features_pb2 import (
    GetArchiveWatermarkRequest,
    GetHistoricalFeaturesRequest,
    HistoricalFeatures,
)
from trimtab_contracts.features.v1.features_pb2_grpc import FeatureStoreStub
from trimtab_contracts.registry.v1.registry_pb2 import TableVersion
from trimtab_core import specs
from trimtab_runtime import rpc
from trimtab_runtime.clock import from_timestamp, to_timestamp

from trimtab_trainer.usecases.entities import Recipe, TrainingSet

_PATIENCE_S = 120
_LOOK_S = 10


class FeatureStore:
    """The feature store, as the trainer needs it."""

    def __init__(self, channel: grpc.aio.Channel) -> None:
        self._stub: Any = FeatureStoreStub(channel)

    async def training_set(self, recipe: Recipe, folder: Path) -> TrainingSet:
        """Write the labelled rows of the recipe's window, as known at its end, to an Arrow file in `folder`.

        Raises:
            Unavailable: the feature store is away, or its archive has not come so far in time.
            Rejected: it has no such training set.
        """
        end = to_timestamp(recipe.as_of_ms)
        request = GetHistoricalFeaturesRequest(
            model=recipe.model.name,
            start=to_timestamp(recipe.as_of_ms - recipe.model.spec.trainer.window),
            end=end,
            as_of=end,
            wait_until=end,
            tables=[TableVersion(table=name, version=version) for name, version in recipe.tables],
        )
        json_format.ParseDict(specs.to_document(recipe.model), request.document)
        path, dataset = folder / "rows.arrow", HistoricalFeatures.Dataset()
        try:
            with path.open("wb") as file:
                async for part in self._stub.GetHistoricalFeatures(request, timeout=_PATIENCE_S):
                    if part.HasField("dataset"):
                        dataset = part.dataset
                    else:
                        file.write(part.arrow)
        except grpc.RpcError as error:
            raise rpc.error_of(error) from error
        return TrainingSet(
            path=path,
            tables=tuple((table.table, table.version) for table in dataset.tables),
            digest=dataset.digest,
            rows=dataset.rows,
            rows_of_other_classes=dataset.rows_of_other_classes,
        )

    async def watermark_ms(self, model: str) -> int | None:
        """Return how far all that a model is trained on is archived, None if something of it is not at all.

        Raises:
            Unavailable: the feature store is away.
            Rejected: it knows no such model.
        """
        try:
            request = GetArchiveWatermarkRequest(model=model)
            found = await self._stub.GetArchiveWatermark(request, timeout=_LOOK_S)
        except grpc.RpcError as error:
            raise rpc.error_of(error) from error
        return from_timestamp(found.watermark) if found.HasField("watermark") else None
