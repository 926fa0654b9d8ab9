"""The registry's use cases over a store in memory, with a serving that says what it is told to."""

from collections.abc import Sequence
from typing import Any, Literal

from trimtab_contracts import topics
from trimtab_contracts.common.v1.common_pb2 import Artifact
from trimtab_contracts.registry.v1.registry_pb2 import AuditEntry, Deployment, VersionEvent
from trimtab_runtime.clock import ManualClock
from trimtab_runtime.errors import NotFound

from trimtab_registry.formats import schema_faults
from trimtab_registry.grpc_api import RegistryApi
from trimtab_registry.testing.makers import a_run, an_evaluation, documents
from trimtab_registry.testing.store import MemoryStore
from trimtab_registry.usecases.applying import Specs
from trimtab_registry.usecases.approvals import Approvals
from trimtab_registry.usecases.candidates import Candidates
from trimtab_registry.usecases.collecting import Collector, Retention
from trimtab_registry.usecases.contests import Contests
from trimtab_registry.usecases.decisions import Decisions
from trimtab_registry.usecases.deleting import Deleting
from trimtab_registry.usecases.entities import Loaded, Stage, Status, StoredFile, Verdict
from trimtab_registry.usecases.externals import ExternalChecks
from trimtab_registry.usecases.naming import Names
from trimtab_registry.usecases.ports import Need, Store
from trimtab_registry.usecases.roles import Roles
from trimtab_registry.usecases.rollouts import Standing
from trimtab_registry.usecases.tags import Tags
from trimtab_registry.usecases.trials import Fleet, Trials

MODEL = "minutes"
LEASE_MS = 5_000
DAY_MS, HOUR_MS = 86_400_000, 3_600_000

Outcome = Literal["ADVANCE", "PROMOTE", "ROLL_BACK", "UNDECIDED"]


class Harness:
    """A registry with one model, `minutes`."""

    def __init__(self, roles: str = "", *, store: Store | None = None) -> None:
        """`store` is another one than that in memory, whose outbox is asked for elsewhere."""
        self.memory = MemoryStore()
        self.store = store or self.memory
        self.clock = ManualClock(10_000)
        self.fleet = Fleet()
        self.files: dict[str, bytes] = {}
        self.roles = Roles.parse(roles)
        self.specs = Specs(self.store, self._provide, schema_faults, self.clock, self.roles)
        self.candidates = Candidates(self.store, self._fetch, self.clock)
        self.approvals = Approvals(self.store, self.clock, self.roles)
        self.trials = Trials(self.store, self.fleet, self.clock)
        self.decisions = Decisions(self.store, self.clock, self.roles)
        self.deleting = Deleting(self.store, self.clock)
        self.names = Names(self.store, self.clock)
        self.removed: list[str] = []
        self.newer: set[str] = set()
        """What a run has stored again."""
        self.collector = Collector(self.store, self.clock, self._remove, Retention(DAY_MS, HOUR_MS))
        self.tags = Tags(self.store, self.clock)
        self.checks = ExternalChecks(self.store, self.clock, self.roles)
        self.contests = Contests(self.store, self.clock, self.roles)
        self._verdicts = 0

    def api(self) -> RegistryApi:
        """Return the registry's door."""
        return RegistryApi(
            self.store,
            self.specs,
            self.approvals,
            self.decisions,
            self.tags,
            self.names,
            self.deleting,
            self.collector,
            self.checks,
            self.contests,
        )

    async def apply(self, *, rollout: dict[str, Any] | None = None, **model: Any) -> None:
        """Apply the documents of `minutes` and what it needs."""
        await self.specs.apply(documents(rollout={"cap": 60, **(rollout or {})}, **model), "ann")

    async def consider(
        self,
        name: str,
        *,
        champion: int = 0,
        content: bytes | None = None,
        features: Sequence[str] = ("distance",),
        **measured: Any,
    ) -> None:
        """Let a run called `name` finish, evaluated beside `champion`; `measured` is what more it says of itself."""
        self.files[name] = an_evaluation() if content is None else content
        await self.candidates.consider(
            a_run(name, champion=champion, evaluation=Artifact(uri=name), features=features, **measured)
        )

    async def report(
        self, instance: str = "serving-0", *, warm: Sequence[int] = (), champion: int = 0, errors: dict[int, str] | None = None,
        generation: int | None = None,
    ) -> None:  # fmt: skip
        """Let an instance say what it has, as of now and of the present generation, and let the registry act on it."""
        standing = await self.standing()
        loaded = [Loaded(number, True, "") for number in warm]
        loaded += [Loaded(number, False, why) for number, why in (errors or {}).items()]
        self.fleet.note(
            Status(
                model=MODEL,
                instance=instance,
                generation=standing.generation if generation is None else generation,
                champion=champion,
                versions=tuple(loaded),
                lease_until_ms=self.clock.now_ms() + LEASE_MS,
            )
        )
        await self.trials.observe(MODEL)

    async def serve(self, instance: str = "serving-0") -> None:
        """Let an instance load and swap to all that is wanted, until nothing follows from it."""
        before = None
        while before != (standing := await self.standing()):
            before = standing
            wanted = [
                number for number in (standing.champion, *standing.challengers, standing.previous) if number
            ]
            await self.report(instance, warm=wanted, champion=standing.champion or 0)

    async def verdict(self, outcome: Outcome, **other: Any) -> Verdict:
        """Let the judge speak about the present state, or about another where `other` says so."""
        self._verdicts += 1
        standing = await self.standing()
        trial = standing.trial
        spoken: dict[str, Any] = {
            "id": f"verdict-{self._verdicts}",
            "rollout_id": trial.id if trial else "none",
            "step": trial.step if trial else 0,
            "generation": trial.generation if trial else 0,
            **other,
        }
        verdict = Verdict(
            model=MODEL,
            outcome=outcome,
            sentence=f"the judge says {outcome}",
            numbers={"rows": 200},
            **spoken,
        )
        await self.trials.judge(verdict)
        return verdict

    async def standing(self) -> Standing:
        """Return where the model stands."""
        return await self.store.standing(MODEL)

    async def stages(self) -> list[Stage]:
        """Return how far each version has come."""
        return [version.stage for version in await self.store.versions(MODEL)]

    def events(self) -> list[VersionEvent]:
        """Return the news of versions."""
        return [
            topics.VERSIONS.decode(sent.value or b"")
            for sent in self.memory.outbox
            if sent.topic == topics.VERSIONS.name
        ]

    def deployments(self) -> list[Deployment]:
        """Return the news of what is wanted."""
        return [
            topics.DEPLOYMENTS.decode(sent.value or b"")
            for sent in self.memory.outbox
            if sent.topic == topics.DEPLOYMENTS.name
        ]

    def audited(self) -> list[AuditEntry]:
        """Return the news of the audit log about the model."""
        entries = [
            topics.AUDIT.decode(sent.value or b"")
            for sent in self.memory.outbox
            if sent.topic == topics.AUDIT.name
        ]
        return [entry for entry in entries if entry.resource == f"Model/{MODEL}"]

    async def _fetch(self, file: StoredFile) -> bytes:
        if file.uri not in self.files:
            raise NotFound(f"artifact {file.uri} is not there")
        return self.files[file.uri]

    async def _remove(self, file: StoredFile, _: int) -> Literal["removed", "gone", "newer"]:
        if file.digest in self.newer:
            return "newer"
        self.removed.append(file.digest)
        return "removed"

    async def _provide(self, needs: Sequence[Need]) -> None:
        """Kafka is there."""
