"""gRPC door of the feature store: features now, and features then."""

import asyncio
import threading
from collections.abc import AsyncIterator, Mapping
from typing import Any

from google.protobuf import json_format
from trimtab_contracts.features.v1.features_pb2 import (
    ArchivedEvents,
    AuditSkewRequest,
    AuditSkewResponse,
    BackfillRequest,
    BackfillResponse,
    GetArchiveWatermarkRequest,
    GetArchiveWatermarkResponse,
    GetHistoricalFeaturesRequest,
    GetOnlineFeaturesRequest,
    GetOnlineFeaturesResponse,
    HistoricalFeatures,
    JoinFeaturesRequest,
    JoinFeaturesResponse,
    ReadEventsRequest,
)
from trimtab_contracts.features.v1.features_pb2_grpc import FeatureStoreServicer
from trimtab_contracts.ingestion.v1.ingestion_pb2 import Reason
from trimtab_contracts.registry.v1.registry_pb2 import TableVersion
from trimtab_core import specs
from trimtab_core.specs import Model
from trimtab_runtime.clock import Clock, from_timestamp, to_timestamp

from trimtab_feature_store.backfill import Backfill, Sent, Taken
from trimtab_feature_store.errors import BadQuestion
from trimtab_feature_store.events import MOST_ROWS, EventReader, Extent
from trimtab_feature_store.historical import Historical, Wanted, arrow_pieces
from trimtab_feature_store.joining import Joining
from trimtab_feature_store.online import Answer, OnlineViews
from trimtab_feature_store.skew import Audit, Compared, Example, Skew
from trimtab_feature_store.store import EVER_MS

_FIRST_S = 10.0
"""How long a question waits for views that are read for the first time, at most: it holds a thread of the door."""


class FeatureStoreApi(FeatureStoreServicer):
    """Answers `trimtab.features.v1.FeatureStore`."""

    def __init__(
        self,
        online: OnlineViews,
        historical: Historical,
        joining: Joining,
        skew: Skew,
        backfill: Backfill,
        events: EventReader,
        clock: Clock,
        *,
        patience_s: float,
        threads: int,
    ) -> None:
        """Make it on the event loop that the views are followed on; plain handlers run on `threads` others.

        All of those but one may wait for views at a time, so that one is left for whoever need not, such as health.
        """
        self._loop = asyncio.get_running_loop()
        self._online = online
        self._historical = historical
        self._joining = joining
        self._skew = skew
        self._backfill = backfill
        self._events = events
        self._clock = clock
        self._patience_s = patience_s
        self._may_wait = threading.BoundedSemaphore(max(1, threads - 1))

    def GetOnlineFeatures(self, request: GetOnlineFeaturesRequest, context: Any) -> GetOnlineFeaturesResponse:
        """Return features of some entities at a time, or now; all views are read at one time."""
        plan = self._online.plan(request.features)
        if self._online.lacks(plan):
            waits = self._may_wait.acquire(blocking=False)
            try:
                # Without patience the reading is begun all the same, so that a later question finds it done.
                patience_s = min(_FIRST_S, context.time_remaining() or _FIRST_S) if waits else 0.0
                following = self._online.follow(plan, patience_s=patience_s)
                asyncio.run_coroutine_threadsafe(following, self._loop).result()
            finally:
                if waits:
                    self._may_wait.release()
        at_ms = from_timestamp(request.at) if request.HasField("at") else self._clock.now_ms()
        return _online_message(self._online.read(plan, _entity_columns(request), at_ms))

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
                versions={each.table: each.version for each in request.tables},
                document=_model(request) if request.HasField("document") else None,
            ),
            patience_s=self._patience_s if remaining_s is None else min(remaining_s * 0.8, self._patience_s),
        )
        yield HistoricalFeatures(
            dataset=HistoricalFeatures.Dataset(
                tables=_tables(made.versions),
                rows=made.rows.num_rows,
                rows_without_label=made.rows_without_label,
                rows_of_other_classes=made.rows_of_other_classes,
                digest=made.digest,
            )
        )
        for piece in arrow_pieces(made.rows):
            yield HistoricalFeatures(arrow=piece)

    async def JoinFeatures(self, request: JoinFeaturesRequest, context: Any) -> JoinFeaturesResponse:
        """Return features of entities in the past, each as it was at its own time."""
        plan = self._online.plan(request.features)
        joined = await self._joining.join(plan, _entity_columns(request), request.at_ms)
        return JoinFeaturesResponse(
            names=plan.names,
            values=joined.values.ravel().tolist(),
            until=to_timestamp(joined.until_ms) if joined.until_ms else None,
        )

    async def GetArchiveWatermark(
        self, request: GetArchiveWatermarkRequest, context: Any
    ) -> GetArchiveWatermarkResponse:
        """Return how far all that a model is trained on is archived."""
        reached_ms = await self._historical.watermark_ms(request.model)
        response = GetArchiveWatermarkResponse()
        if reached_ms is not None:
            response.watermark.CopyFrom(to_timestamp(reached_ms))
        return response

    async def AuditSkew(self, request: AuditSkewRequest, context: Any) -> AuditSkewResponse:
        """Return how what serving logged compares with what the archive says."""
        audit = await self._skew.audit(
            request.model,
            from_timestamp(request.since) if request.HasField("since") else None,
            from_timestamp(request.until) if request.HasField("until") else None,
        )
        return _audit_message(audit)

    async def Backfill(self, request: BackfillRequest, context: Any) -> BackfillResponse:
        """Take a part of a file into the archive, or say what is refused of it, or how far the file has come."""
        sent = Sent(
            request.file, request.after, request.until, request.numbers, request.rows, request.arrived_at_ms
        )
        return _taken_message(await self._backfill.take(request.source, sent))

    async def ReadEvents(self, request: ReadEventsRequest, context: Any) -> AsyncIterator[ArchivedEvents]:
        """Return archived events of a source: how many there are, then those asked for."""
        extent, rows = await self._events.read(
            request.source,
            from_timestamp(request.start) if request.HasField("start") else -EVER_MS,
            from_timestamp(request.end) if request.HasField("end") else EVER_MS,
            request.most_rows if request.HasField("most_rows") else MOST_ROWS,
        )
        yield ArchivedEvents(extent=_extent_message(extent))
        for piece in arrow_pieces(rows):
            yield ArchivedEvents(arrow=piece)


def _model(request: GetHistoricalFeaturesRequest) -> Model:
    """Return the model that a question's document makes.

    Raises:
        BadQuestion: it makes none, or another than the one that is asked of.
    """
    document = json_format.MessageToDict(request.document)
    try:
        model = specs.read_back("Model", document)[0]
    except ValueError as error:
        raise BadQuestion(f"document makes no model: {error}") from error
    if not isinstance(model, Model) or model.name != request.model:
        raise BadQuestion(f"document is of {specs.called(document)!r}: send that of Model/{request.model}")
    return model


def _entity_columns(request: GetOnlineFeaturesRequest | JoinFeaturesRequest) -> dict[str, list[str]]:
    columns = {column.field: list(column.values) for column in request.entities}
    if len(columns) < len(request.entities):
        fields = [column.field for column in request.entities]
        twice = next(field for field in fields if fields.count(field) > 1)
        raise BadQuestion(f"entity column {twice!r} is there twice: drop one")
    return columns


def _online_message(answer: Answer) -> GetOnlineFeaturesResponse:
    return GetOnlineFeaturesResponse(
        names=answer.names,
        values=answer.values.ravel().tolist(),
        statuses=answer.statuses.tobytes(),
        views=[
            GetOnlineFeaturesResponse.View(
                name=each.name,
                as_of=to_timestamp(each.as_of_ms),
                watermark=None if each.watermark_ms is None else to_timestamp(each.watermark_ms),
                freshness_ms=each.freshness_ms,
            )
            for each in answer.views
        ],
    )


def _taken_message(taken: Taken) -> BackfillResponse:
    return BackfillResponse(
        until=taken.until,
        repeats=taken.repeats,
        refused=[
            BackfillResponse.Refused(
                number=number,
                reasons=[
                    Reason(code=r.code, field=r.field, value=r.value, message=r.message) for r in reasons
                ],
            )
            for number, reasons in taken.refused
        ],
        newest=None if taken.newest_ms is None else to_timestamp(taken.newest_ms),
    )


def _audit_message(audit: Audit) -> AuditSkewResponse:
    return AuditSkewResponse(
        features=[_feature_message(name, each) for name, each in audit.features.items()],
        rows=audit.rows,
        mismatched=audit.mismatched,
        rows_past_archive=audit.rows_past_archive,
        rows_without_event=audit.rows_without_event,
        rows_of_old_features=audit.rows_of_old_features,
        tables=_tables(audit.versions),
    )


def _feature_message(name: str, compared: Compared) -> AuditSkewResponse.Feature:
    return AuditSkewResponse.Feature(
        name=name,
        rows=compared.rows,
        mismatched=compared.mismatched,
        missing=compared.missing,
        extra=compared.extra,
        worst=None if compared.worst is None else _example_message(compared.worst),
    )


def _example_message(example: Example) -> AuditSkewResponse.Example:
    return AuditSkewResponse.Example(
        key=example.key,
        event_time=to_timestamp(example.event_time_ms),
        version=example.version,
        logged=example.logged,
        recomputed=example.recomputed,
    )


def _extent_message(extent: Extent) -> ArchivedEvents.Extent:
    return ArchivedEvents.Extent(
        table=TableVersion(table=extent.table, version=extent.version) if extent.version >= 0 else None,
        rows=extent.rows,
        first=to_timestamp(extent.first_ms) if extent.first_ms is not None else None,
        last=to_timestamp(extent.last_ms) if extent.last_ms is not None else None,
        watermark=to_timestamp(extent.watermark_ms) if extent.watermark_ms else None,
    )


def _tables(versions: Mapping[str, int]) -> list[TableVersion]:
    return [TableVersion(table=name, version=version) for name, version in versions.items()]
