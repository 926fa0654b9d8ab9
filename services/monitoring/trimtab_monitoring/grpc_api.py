"""gRPC door of monitoring: the loop ledger, the health of models, their metrics and reports, and alerts."""

from collections.abc import AsyncIterator
from typing import Any, Final

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
    ListWantedLabelsRequest,
    ListWantedLabelsResponse,
    Loop,
    MakeReportRequest,
    MakeReportResponse,
    ModelHealth,
    QueryRequest,
    QueryResponse,
    Silence,
    SilenceAlertsRequest,
    Trial,
    WatchRequest,
    WatchResponse,
)
from trimtab_contracts.monitoring.v1.monitoring_pb2_grpc import MonitoringServicer
from trimtab_core import foresight, promised
from trimtab_core.baseline import Calibration
from trimtab_core.specs import Model
from trimtab_core.watched import Standing
from trimtab_runtime import rpc
from trimtab_runtime.clock import from_timestamp, to_timestamp

from trimtab_monitoring import messages
from trimtab_monitoring.errors import BadQuestion, UnknownLoop
from trimtab_monitoring.usecases import entities
from trimtab_monitoring.usecases.alerting import Alerting
from trimtab_monitoring.usecases.calibrating import Calibrations
from trimtab_monitoring.usecases.history import History
from trimtab_monitoring.usecases.ondemand import OnDemand
from trimtab_monitoring.usecases.ports import Rollouts, Specs, Store

_MOST_WANTED = 1_000
_PIECE: Final = 1024 * 1024
"""Bytes of a file in one message."""


class MonitoringApi(MonitoringServicer):
    """Answers `trimtab.monitoring.v1.Monitoring`."""

    def __init__(
        self, store: Store, specs: Specs, rollouts: Rollouts, calibrations: Calibrations, alerting: Alerting, history: History,
        on_demand: OnDemand,
    ) -> None:  # fmt: skip
        self._calibrations = calibrations
        self._alerting = alerting
        self._history = history
        self._on_demand = on_demand
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
        message = messages.loop(found)
        standing = self._rollouts.standing(found.model)
        model = self._specs.models.get(found.model)
        if found.state == "on_trial" and model and standing and standing.rollout_id == found.rollout_id:
            told = await self._foreseen(model, standing, await self._store.health(found.model))
            message.foreseen = told.get(found.version, "")
        return message

    async def GetModelHealth(self, request: GetModelHealthRequest, context: Any) -> ModelHealth:
        """Return counts, the watermark and the newest readings of a model."""
        model = self._specs.model(request.model)
        standing = self._rollouts.standing(model.name)
        found = await self._store.health(model.name)
        message = messages.health(model.name, standing.champion if standing else 0, found)
        message.untold = self._alerting.untold(model)
        message.judged.extend(await self._judged(model, message.version, found))
        message.foreseen = " ".join((await self._foreseen(model, standing, found)).values())
        return message

    async def _judged(self, model: Model, version: int, found: entities.Health) -> list[str]:
        """Return how the windows of the live version are judged; of those by time, one of as many rows as the newest."""
        if not version:
            return []
        whole = (version, "prediction_drift", "")
        newest = [it.rows for it in found.readings if (it.version, it.name, it.arm) == whole]
        settings = self._calibrations.settings(model)
        sized = settings.of_rows(newest[0]) if newest else settings
        calibration, _ = await self._calibrations.found(model.name, version, sized)
        return promised.promised(version, calibration, sized)

    async def _foreseen(
        self, model: Model, standing: Standing | None, health: entities.Health
    ) -> dict[int, str]:
        """Return what is foreseen of each version of the present rollout."""
        if standing is None or not standing.rollout_id:
            return {}
        settings = self._calibrations.settings(model)
        found, _ = await self._calibrations.found(model.name, standing.champion, settings)
        usual = found.performance if isinstance(found, Calibration) else None
        return foresight.of_rollout(model.spec, standing, health.watch, usual, health.readings)

    async def ListWantedLabels(
        self, request: ListWantedLabelsRequest, context: Any
    ) -> ListWantedLabelsResponse:
        """Return the newest predictions that are to be labelled and have no label yet."""
        model = self._specs.model(request.model)
        limit = rpc.limit(request.limit, unless=_MOST_WANTED, most=_MOST_WANTED)
        asked = await self._store.wanted(model.name, entities.LabelStream.of(model), limit)
        return ListWantedLabelsResponse(labels=[messages.wanted_label(each) for each in asked])

    async def Query(self, request: QueryRequest, context: Any) -> AsyncIterator[QueryResponse]:
        """Return the metrics of a model that match, in order of time."""
        async for page in self._history.query(messages.wanted(request.filter), request.limit):
            yield QueryResponse(metrics=messages.metrics(page))

    async def Watch(self, request: WatchRequest, context: Any) -> AsyncIterator[WatchResponse]:
        """Return metrics as they are told, until the caller ends."""
        after = request.after if request.HasField("after") else None
        async for told, position in self._history.watch(messages.wanted(request.filter), after):
            yield WatchResponse(metrics=messages.metrics(told), position=position)

    async def MakeReport(self, request: MakeReportRequest, context: Any) -> AsyncIterator[MakeReportResponse]:
        """Return a report of the newest rows of the live version, or the one that was made for an episode of drift."""
        since_ms, until_ms = messages.at_ms(request, "since"), messages.at_ms(request, "until")
        if request.episode:
            if (since_ms, until_ms, request.rows) != (None, None, 0):
                raise BadQuestion(
                    f"episode {request.episode!r} names the rows of its report: leave out times and rows"
                )
            made = await self._on_demand.of_episode(request.model, request.episode)
        else:
            made = await self._on_demand.report(request.model, since_ms, until_ms, request.rows)
        about = MakeReportResponse.About(
            version=made.version,
            rows=made.rows,
            first=to_timestamp(made.first_ms),
            last=to_timestamp(made.last_ms),
        )
        yield MakeReportResponse(about=about)
        for at in range(0, len(made.html), _PIECE):
            yield MakeReportResponse(html=made.html[at : at + _PIECE])
        for at in range(0, len(made.json), _PIECE):
            yield MakeReportResponse(json=made.json[at : at + _PIECE])

    async def GetTrial(self, request: GetTrialRequest, context: Any) -> Trial:
        """Return how the versions on trial of a model stand."""
        model = self._specs.model(request.model)
        health, standing = await self._store.health(model.name), self._rollouts.standing(model.name)
        message = messages.trial(model.name, model.spec, health.watch, standing)
        told = await self._foreseen(model, standing, health)
        for arm in message.arms:
            arm.foreseen = told.get(arm.version, "")
        return message

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
