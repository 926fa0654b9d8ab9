"""gRPC door of monitoring: the loop ledger, and the health of models."""

from typing import Any

from trimtab_contracts.monitoring.v1.monitoring_pb2 import (
    GetLoopRequest,
    GetModelHealthRequest,
    ListLoopsRequest,
    ListLoopsResponse,
    Loop,
    ModelHealth,
)
from trimtab_contracts.monitoring.v1.monitoring_pb2_grpc import MonitoringServicer

from trimtab_monitoring import messages
from trimtab_monitoring.errors import UnknownLoop
from trimtab_monitoring.usecases.ports import Rollouts, Specs, Store


class MonitoringApi(MonitoringServicer):
    """Answers `trimtab.monitoring.v1.Monitoring`."""

    def __init__(self, store: Store, specs: Specs, rollouts: Rollouts) -> None:
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
