"""In-memory twin of the trainer's store, for tests; it passes the same contract suite."""

from collections.abc import Sequence
from dataclasses import replace

from trimtab_trainer.messages import to_message
from trimtab_trainer.usecases import Job, News, Status, Told


class MemoryStore:
    """Jobs in a dictionary, in the order in which they were queued; `published` is all the news there was."""

    def __init__(self) -> None:
        self.published: list[News] = []
        self._newest: dict[str, News] = {}
        self._leases: dict[str, tuple[str, int]] = {}

    async def add(self, news: News) -> bool:
        """Queue a job and the news of it; False if its command has a job already."""
        if any(held.job.command_id == news.job.command_id for held in self._newest.values()):
            return False
        self._tell(news)
        return True

    async def claim(self, owner: str, *, now_ms: int, lease_ms: int) -> Job | None:
        """Take the oldest job that waits, or whose trainer has let its lease lapse."""
        for run_id, news in self._newest.items():
            if news.status in (Status.SUCCEEDED, Status.FAILED):
                continue
            lease = self._leases.get(run_id)
            busy = any(self._newest[held].job.model == news.job.model for held in self._leases)
            if lease[1] < now_ms if lease else not busy:
                self._leases[run_id] = (owner, now_ms + lease_ms)
                started = news.job.started_at_ms if news.job.started_at_ms is not None else now_ms
                job = replace(news.job, attempts=news.job.attempts + 1, started_at_ms=started)
                self._newest[run_id] = replace(news, job=job)
                return job
        return None

    async def renew(self, job: Job, owner: str, *, until_ms: int) -> bool:
        """Hold the lease longer; False if the job is no longer `owner`'s, or is by now in another attempt."""
        if not self._holds(job, owner):
            return False
        self._leases[job.run_id] = (owner, until_ms)
        return True

    async def record(self, news: News, owner: str) -> bool:
        """Store what became of a job; False, and nothing stored, if that attempt is no longer `owner`'s."""
        if not self._holds(news.job, owner):
            return False
        if news.status in (Status.SUCCEEDED, Status.FAILED):
            del self._leases[news.job.run_id]
            news = replace(news, job=replace(news.job, finished_at_ms=news.at_ms))
        self._tell(news)
        return True

    async def get(self, run_id: str) -> Told | None:
        """Return what was told last of a run."""
        found = self._newest.get(run_id)
        return Told(found.job, to_message(found).SerializeToString()) if found else None

    async def list(self, model: str, limit: int) -> Sequence[Told]:
        """Return the newest runs of a model, or of all where it is empty."""
        runs = [news for news in self._newest.values() if model in ("", news.job.model)]
        return [Told(news.job, to_message(news).SerializeToString()) for news in reversed(runs)][:limit]

    def _holds(self, job: Job, owner: str) -> bool:
        held = self._newest[job.run_id].job
        return self._leases.get(job.run_id, ("", 0))[0] == owner and held.attempts == job.attempts

    def _tell(self, news: News) -> None:
        self._newest[news.job.run_id] = news
        self.published.append(news)
