"""Shows an MLflow server what becomes of runs and versions, if one is named.

It hears of them from Kafka in a group of its own, so that nothing waits for MLflow: a
server that is away is asked again until it is back, and what MLflow refuses is logged
and left out. A record may be heard twice; each run has one run there, found by its tag
`trimtab.run_id`, and each version one version, found by that run.

It speaks MLflow's REST API, for its client would bring thirty packages along to call
nine addresses.
"""

import asyncio
import logging
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import PurePosixPath
from typing import Any
from urllib.parse import quote, urlsplit

import httpx
from google.protobuf import json_format
from trimtab_contracts import topics
from trimtab_contracts.common.v1.common_pb2 import Artifact
from trimtab_contracts.registry.v1.registry_pb2 import Candidate, VersionEvent
from trimtab_contracts.training.v1.training_pb2 import RunEvent
from trimtab_runtime import artifacts
from trimtab_runtime.bus import Subscription, each
from trimtab_runtime.clock import from_timestamp, iso
from trimtab_runtime.errors import Rejected, Unavailable
from trimtab_runtime.records import Record

from trimtab_trainer.errors import BadTrackingUri
from trimtab_trainer.usecases.ports import Deployed

log = logging.getLogger(__name__)

GROUP = "trainer-mlflow"
CHAMPION, CHALLENGER = "champion", "challenger"
_PATIENCE_S = 30.0
"""That one answer may take; an upload of a large model is one."""
_SETTLE_S = 5.0
"""That `deployments` may be behind `versions`."""
_MOST_TEXT, _MOST_PARAMETERS = 5_000, 100
_STATUS = {
    RunEvent.STARTED: "RUNNING",
    RunEvent.SUCCEEDED: "FINISHED",
    RunEvent.FAILED: "FAILED",
    RunEvent.CANCELLED: "KILLED",
}
_FLAVOURS = """\
flavors:
  onnx: {{data: model.onnx, onnx_version: "{onnx}", providers: [CPUExecutionProvider]}}
  python_function: {{data: model.onnx, loader_module: mlflow.onnx}}
run_id: {run_id}
"""


def subscriptions(mirror: "Mirror") -> list[Subscription[Any]]:
    """List what the mirrors of all trainers share."""

    async def run(event: RunEvent, _: Record[RunEvent]) -> None:
        await _left_out(mirror.run(event), f"run {event.run_id}")

    async def version(event: VersionEvent, _: Record[VersionEvent]) -> None:
        await _left_out(mirror.version(event), f"version {event.number} of {event.model}")

    return [each(topics.RUNS, run), each(topics.VERSIONS, version)]


async def _left_out(telling: Any, what: str) -> None:
    """Tell something; what MLflow will never take is nobody's dead letter."""
    try:
        await telling
    except Rejected as error:
        log.warning("MLflow is not told of %s: %s", what, error)


@asynccontextmanager
async def opened(uri: str) -> AsyncIterator[httpx.AsyncClient]:
    """Have a client of the server at `uri`.

    Raises:
        BadTrackingUri: it is no address of a server.
    """
    parts = urlsplit(uri)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise BadTrackingUri(uri)
    async with httpx.AsyncClient(base_url=uri.rstrip("/") + "/", timeout=_PATIENCE_S) as client:
        yield client


class Mirror:
    """Tells one server."""

    def __init__(self, client: httpx.AsyncClient, deployed: Deployed) -> None:
        self._client = client
        self._deployed = deployed

    async def run(self, event: RunEvent) -> None:
        """Tell what became of a run.

        Raises:
            Unavailable: the server, or an artifact, is away.
            Rejected: the server will not have it, or an artifact is gone; of a run that ended it has that it did.
        """
        status = _STATUS.get(event.status)
        if status is None:
            return
        found = await self._find(event) or await self._create(event)
        run_id, ended = found["info"]["run_id"], found["info"]["status"] in ("FINISHED", "FAILED", "KILLED")
        if ended:
            return  # all was told before that can be: the status is the last that is told
        refused: Rejected | None = None
        try:
            if event.status == RunEvent.SUCCEEDED:
                await self._post("runs/log-batch", run_id=run_id, **_batch(event))
                await self._upload(run_id, found["info"]["artifact_uri"], event.candidate)
            elif event.error:
                await self._post(
                    "runs/set-tag", run_id=run_id, key="trimtab.error", value=event.error[:_MOST_TEXT]
                )
        except Rejected as error:
            refused = error
        if status != "RUNNING":
            await self._post("runs/update", run_id=run_id, status=status, end_time=from_timestamp(event.at))
        if refused is not None:
            raise refused

    async def version(self, event: VersionEvent) -> None:
        """Register a version, and let the aliases say what serves and what is on trial.

        Raises:
            Unavailable: the server is away.
            Rejected: the server will not have it, or was never told of the version's run.
        """
        named = f"name = '{_quoted(event.model)}'"
        known = (await self._get("model-versions/search", filter=named, max_results=10_000)).get(
            "model_versions", []
        )
        numbers = {
            tag["value"]: each["version"]
            for each in known
            for tag in each.get("tags", ())
            if tag["key"] == "trimtab.version"
        }
        if str(event.number) not in numbers:
            numbers[str(event.number)] = await self._register(event)
        theirs = {"name": event.model, "version": numbers[str(event.number)]}
        stage = VersionEvent.Stage.Name(event.stage).lower()
        await self._post("model-versions/set-tag", **theirs, key="trimtab.stage", value=stage)
        for alias, number in (await self._serving(event)).items():
            if str(number) in numbers:
                await self._post(
                    "registered-models/alias", name=event.model, alias=alias, version=numbers[str(number)]
                )
            else:
                await self._delete("registered-models/alias", name=event.model, alias=alias)

    async def _serving(self, event: VersionEvent) -> Mapping[str, int]:
        """Return what is wanted by now, once what is known of it has come as far as `event`, or is thought to have."""
        champion = challenger = 0
        for _ in range(int(_SETTLE_S / 0.1)):
            champion, challenger = self._deployed.numbers(event.model)
            if {
                VersionEvent.LIVE: champion == event.number,
                VersionEvent.ON_TRIAL: challenger == event.number,
                VersionEvent.ROLLED_BACK: event.number not in (champion, challenger),
            }.get(event.stage, True):
                break
            await asyncio.sleep(0.1)
        return {CHAMPION: champion, CHALLENGER: challenger}

    async def _register(self, event: VersionEvent) -> str:
        runs = await self._search(event.model, event.run_id)
        if not runs:
            raise Rejected(f"it was told of no run {event.run_id}, which is older than this mirror")
        await self._post("registered-models/create", may_be_there=True, name=event.model)
        info = runs[0]["info"]
        made = await self._post(
            "model-versions/create",
            name=event.model,
            source=f"{info['artifact_uri']}/model",
            run_id=info["run_id"],
            tags=_pairs(
                {
                    "trimtab.version": event.number,
                    "trimtab.run_id": event.run_id,
                    "trimtab.loop_id": event.loop_id,
                }
            ),
        )
        return str(made["model_version"]["version"])

    async def _find(self, event: RunEvent) -> Any:
        runs = await self._search(event.model, event.run_id)
        return runs[0] if runs else None

    async def _search(self, model: str, run_id: str) -> list[Any]:
        experiment = await self._experiment(model)
        tagged = f"tags.`trimtab.run_id` = '{_quoted(run_id)}'"
        found = await self._post("runs/search", experiment_ids=[experiment], filter=tagged, max_results=1)
        return list(found.get("runs", ()))

    async def _create(self, event: RunEvent) -> Any:
        tags = {
            "mlflow.runName": event.run_id,
            "trimtab.run_id": event.run_id,
            "trimtab.loop_id": event.loop_id,
            "trimtab.model": event.model,
            "trimtab.trigger": event.trigger,
            "trimtab.as_of": iso(from_timestamp(event.as_of)),
        }
        made = await self._post(
            "runs/create",
            experiment_id=await self._experiment(event.model),
            start_time=from_timestamp(event.at),
            tags=_pairs(tags),
        )
        return made["run"]

    async def _experiment(self, model: str) -> str:
        """Return the id of a model's experiment, which is called as the model is."""
        found = await self._ask(
            "GET", "experiments/get-by-name", params={"experiment_name": model}, fine=(404,)
        )
        if not found:
            made = await self._post("experiments/create", may_be_there=True, name=model)
            if not made:
                return await self._experiment(model)
            return str(made["experiment_id"])
        if found["experiment"]["lifecycle_stage"] == "deleted":
            raise Rejected(f"its experiment {model!r} is deleted: restore it in MLflow")
        return str(found["experiment"]["experiment_id"])

    async def _upload(self, run_id: str, uri: str, made: Candidate) -> None:
        """Store the candidate's files where the run's are; where the server does not take them, say where they are."""
        parts = urlsplit(uri)
        if parts.scheme != "mlflow-artifacts":
            value = f"not copied to {uri}, which this server does not take uploads for: they are at {made.model.uri}"
            await self._post("runs/set-tag", run_id=run_id, key="trimtab.artifacts", value=value[:_MOST_TEXT])
            return
        flavours = _FLAVOURS.format(onnx=made.environment.get("onnx", ""), run_id=run_id)
        await self._put(parts.path, "model/MLmodel", flavours.encode())
        named: Mapping[str, Artifact] = {
            "model/model.onnx": made.model,
            "reference.arrow": made.reference,
            "evaluation.arrow": made.evaluation,
        }
        for name, artifact in named.items():
            await self._put(parts.path, name, await asyncio.to_thread(artifacts.fetch, artifact))

    async def _put(self, root: str, name: str, content: bytes) -> None:
        path = quote(str(PurePosixPath(root.lstrip("/")) / name))
        await self._ask("PUT", f"mlflow-artifacts/artifacts/{path}", content=content)

    async def _post(self, path: str, *, may_be_there: bool = False, **body: Any) -> Any:
        return await self._ask("POST", path, json=body, fine=(400, 409) if may_be_there else ())

    async def _get(self, path: str, **params: Any) -> Any:
        return await self._ask("GET", path, params=params)

    async def _delete(self, path: str, **body: Any) -> None:
        await self._ask("DELETE", path, json=body, fine=(400, 404))

    async def _ask(self, method: str, path: str, *, fine: tuple[int, ...] = (), **request: Any) -> Any:
        """Return what the server answers, an empty dict where it is one of the refusals that are fine.

        Raises:
            Unavailable: it does not answer, or is not well.
            Rejected: it refuses.
        """
        where = f"api/2.0/{path if path.startswith('mlflow-artifacts') else f'mlflow/{path}'}"
        try:
            answer = await self._client.request(method, where, **request)
        except httpx.HTTPError as error:
            raise Unavailable(f"MLflow at {self._client.base_url} does not answer: {error!r}") from error
        if answer.status_code in fine:
            return {}
        if answer.status_code >= 500 or answer.status_code in (401, 403, 408, 429):
            raise Unavailable(f"MLflow at {self._client.base_url} answers {answer.status_code} to {path}")
        if answer.status_code >= 400:
            raise Rejected(f"MLflow answers {answer.status_code} to {path}: {answer.text[:300]}")
        return answer.json() if answer.content else {}


def _batch(event: RunEvent) -> dict[str, Any]:
    """Return what is logged of a run that succeeded."""
    made, at = event.candidate, from_timestamp(event.at)
    parameters: dict[str, Any] = {
        **json_format.MessageToDict(made.parameters),
        "seed": made.seed,
        "rows": made.rows,
        "model_generation": made.model_generation,
        "window": made.plan.window,
        "trained_from": iso(from_timestamp(made.trained_from)),
        "trained_to": iso(from_timestamp(made.trained_to)),
    }
    tags = {
        "trimtab.dataset_digest": made.dataset_digest,
        "trimtab.model_digest": made.model.digest,
        "trimtab.tables": ", ".join(f"{table.table}@{table.version}" for table in made.tables),
        "trimtab.champion": made.champion_version,
        "trimtab.window": made.plan.sentence,
        **{f"trimtab.environment.{name}": value for name, value in made.environment.items()},
    }
    return {
        "metrics": [
            {"key": name, "value": value, "timestamp": at, "step": 0}
            for name, value in sorted(made.metrics.items())
        ],
        "params": _pairs(parameters)[:_MOST_PARAMETERS],
        "tags": _pairs(tags),
    }


def _pairs(values: Mapping[str, Any]) -> list[dict[str, str]]:
    return [{"key": name, "value": str(value)[:_MOST_TEXT]} for name, value in values.items() if str(value)]


def _quoted(text: str) -> str:
    return text.replace("'", "\\'")
