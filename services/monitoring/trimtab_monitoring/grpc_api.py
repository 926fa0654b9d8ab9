"""gRPC door of monitoring: the loop ledger, the health of models, and alerts."""

from typing import Any

from trimtab_contracts.monitoring.v1.monitoring_pb2 import (
    EndSilenceRequest,
    EndSilenceResponse,
    GetLoopRequest,
    GetModelHealthRequest,
    GetTrialRequest,
    ListAlertsRequest,
    ListAlertsResponse,
    ListLoopsRequest,
    ListLoopsResponse,
    ListSilencesRequest,
    ListSilencesResponse,
    Loop,
    ModelHealth,
    Silence,
    SilenceAlertsRequest,
    Trial,
)
from trimtab_contracts.monitoring.v1.monitoring_pb2_grpc import MonitoringServicer
from trimtab_runtime.clock import from_timestamp

from trimtab_monitoring import messages
from trimtab_monitoring.errors import UnknownLoop
from trimtab_monitoring.usecases import entities
from trimtab_monitoring.usecases.alerting import Alerting
from trimtab_monitoring.usecases.ports import Rollouts, Specs, Store


class MonitoringApi(MonitoringServicer):
    """Answers `trimtab.monitoring.v1.Monitoring`."""

    def __init__(self, store: Store, specs: Specs, rollouts: Rollouts, alerting: Alerting) -> None:
        self._alerting = alerting
        self._store = store
        self._specs = specs
        self._rollouts = rollouts

    async def ListLoops(self, request: ListLoopsRequest, context: Any) -> ListLoopsResponse:
        """Return the loops of a model, or of all, oldest first."""
        found = await self._store.loops(request.model, open_only=request.open_only)
        return ListLoopsResponse(loops=[messages.loop(loop) for loop in found])

    async def GetLoop(self, request: GetLoopRequest, context: Any) -> Loop:
        """Return one loop."""
        found = await self._store.find_loop(request.id)
        if found is None:
            raise UnknownLoop(request.id)
        return messages.loop(found)

    async def GetModelHealth(self, request: GetModelHealthRequest, context: Any) -> ModelHealth:
        """Return counts, the watermark and the newest readings of a model."""
        model = self._specs.model(request.model)
        standing = self._rollouts.standing(model.name)
        found = await self._store.health(model.name)
        return messages.health(model.name, standing.champion if standing else 0, found)

    async def GetTrial(self, request: GetTrialRequest, context: Any) -> Trial:
        """Return how the versions on trial of a model stand."""
        model = self._specs.model(request.model)
        watch, standing = await self._store.watch(model.name), self._rollouts.standing(model.name)
        return messages.trial(model.name, model.spec, watch, standing)

    async def ListAlerts(self, request: ListAlertsRequest, context: Any) -> ListAlertsResponse:
        """Return the alerts about a subject, or all, newest first."""
        found = await self._alerting.alerts(request.subject, open_only=request.open_only)
        return ListAlertsResponse(alerts=[messages.held_alert(held) for held in found])

    async def SilenceAlerts(self, request: SilenceAlertsRequest, context: Any) -> Silence:
        """Tell nobody of a subject's alerts for a while."""
        asked = entities.Silence(
            0, request.subject, request.kind, from_timestamp(request.until), request.actor, request.reason
        )
        return messages.silence(await self._alerting.silence(asked))

    async def ListSilences(self, request: ListSilencesRequest, context: Any) -> ListSilencesResponse:
        """Return the silences that hold."""
        return ListSilencesResponse(silences=[messages.silence(it) for it in await self._alerting.silences()])

    async def EndSilence(self, request: EndSilenceRequest, context: Any) -> EndSilenceResponse:
        """End a silence now."""
        await self._alerting.end_silence(request.id)
        return EndSilenceResponse()
