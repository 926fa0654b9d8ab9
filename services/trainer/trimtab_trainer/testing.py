"""In-memory twin of the trainer's store, for tests; it passes the same contract suite."""

from collections.abc import Sequence
from dataclasses import replace

from trimtab_training.progress import Progress
from trimtab_training.trials import Trial

from trimtab_trainer.errors import RunEnded, UnknownRun
from trimtab_trainer.messages import to_message
from trimtab_trainer.usecases.entities import ENDED, Job, News, Note, Status, StoredFile, Told


class MemoryStore:
    """Jobs in a dictionary, in the order in which they were queued; `published` is all the news there was."""

    def __init__(self) -> None:
        self.published: list[News] = []
        self._newest: dict[str, News] = {}
        self._leases: dict[str, tuple[str, int]] = {}
        self._progress: dict[str, Progress] = {}
        self._logs: dict[str, StoredFile] = {}
        self._trials: dict[str, dict[int, tuple[str, Trial]]] = {}
        self._notes: dict[str, tuple[Note, ...]] = {}

    async def add(self, news: News) -> bool:
        """Queue a job and the news of it; False if its command has a job already."""
        if any(held.job.command_id == news.job.command_id for held in self._newest.values()):
            return False
        self._tell(news)
        return True

    async def claim(self, owner: str, *, now_ms: int, lease_ms: int) -> Job | None:
        """Take the job whose turn it is, of those that wait or whose trainer has let its lease lapse."""
        for news in sorted(self._newest.values(), key=lambda news: news.job.turn_ms):
            run_id = news.job.run_id
            if news.status in ENDED:
                continue
            lease = self._leases.get(run_id)
            at_work = [self._newest[held].job for held in self._leases]
            busy = not news.job.reproduces and any(
                job.model == news.job.model and not job.reproduces for job in at_work
            )
            if lease[1] < now_ms if lease else not busy:
                self._leases[run_id] = (owner, now_ms + lease_ms)
                self._progress.pop(run_id, None)
                started = news.job.started_at_ms if news.job.started_at_ms is not None else now_ms
                job = replace(news.job, attempts=news.job.attempts + 1, started_at_ms=started)
                self._newest[run_id] = replace(news, job=job)
                return job
        return None

    async def last_change(self, model: str, as_of_ms: int) -> int | None:
        """Return since when the world is another, as the newest order that knew it said up to `as_of_ms`."""
        jobs = [news.job for news in self._newest.values() if news.job.model == model]
        told = [job for job in jobs if job.changed_ms is not None and job.as_of_ms <= as_of_ms]
        return max(told, key=lambda job: job.as_of_ms).changed_ms if told else None

    async def renew(self, job: Job, owner: str, *, until_ms: int, progress: Progress) -> bool:
        """Hold the lease longer, and say how far the job is; False if it is no longer this attempt's."""
        if not self._holds(job, owner):
            return False
        self._leases[job.run_id] = (owner, until_ms)
        self._progress[job.run_id] = progress
        return True

    async def record(self, news: News, owner: str) -> bool:
        """Store what became of a job; False, and nothing stored, if it is no longer this attempt's."""
        if not self._holds(news.job, owner):
            return False
        self._end(news) if news.status in ENDED else self._tell(news)
        return True

    async def cancel(self, run_id: str, *, by: str, reason: str, now_ms: int) -> Told:
        """End a run that has not ended, and tell; one that was cancelled before stays as it is."""
        news = self._newest.get(run_id)
        if news is None:
            raise UnknownRun(run_id)
        if news.status in ENDED - {Status.CANCELLED}:
            raise RunEnded(run_id, news.status)
        if news.status is not Status.CANCELLED:
            self._end(News(news.job, Status.CANCELLED, now_ms, cancelled_by=by, cancel_reason=reason))
        return self._told(self._newest[run_id])

    async def keep_log(self, job: Job, log: StoredFile) -> None:
        """Name the log of a job's attempt; that of an older attempt changes nothing."""
        if self._newest[job.run_id].job.attempts == job.attempts:
            self._logs[job.run_id] = log

    async def resume(self, job: Job, owner: str, *, of: str) -> Sequence[Trial]:
        """Return the trials that earlier attempts ended of a search for `of`, and forget those for anything else."""
        if self._holds(job, owner):
            kept = self._trials.get(job.run_id, {})
            self._trials[job.run_id] = {at: each for at, each in kept.items() if each[0] == of}
        return await self.trials(job.run_id)

    async def keep_trials(self, job: Job, owner: str, trials: Sequence[Trial], *, of: str) -> None:
        """Keep trials that ended, unless the job is no longer this attempt's."""
        if self._holds(job, owner):
            self._trials.setdefault(job.run_id, {}).update({each.number: (of, each) for each in trials})

    async def trials(self, run_id: str) -> Sequence[Trial]:
        """Return the trials of a run, in order."""
        return [trial for _, (_, trial) in sorted(self._trials.get(run_id, {}).items())]

    async def note(self, run_id: str, note: Note) -> Told:
        """Add a note to a run."""
        if run_id not in self._newest:
            raise UnknownRun(run_id)
        self._notes[run_id] = (*self._notes.get(run_id, ()), note)
        return self._told(self._newest[run_id])

    async def get(self, run_id: str) -> Told | None:
        """Return what was told last of a run."""
        found = self._newest.get(run_id)
        return self._told(found) if found else None

    async def list(self, model: str, limit: int) -> Sequence[Told]:
        """Return the newest runs of a model, or of all where it is empty."""
        runs = [news for news in self._newest.values() if model in ("", news.job.model)]
        return [self._told(news) for news in reversed(runs)][:limit]

    def _holds(self, job: Job, owner: str) -> bool:
        held = self._newest[job.run_id].job
        return self._leases.get(job.run_id, ("", 0))[0] == owner and held.attempts == job.attempts

    def _end(self, news: News) -> None:
        self._leases.pop(news.job.run_id, None)
        self._tell(replace(news, job=replace(news.job, finished_at_ms=news.at_ms)))

    def _tell(self, news: News) -> None:
        self._newest[news.job.run_id] = news
        if not news.job.reproduces:
            self.published.append(news)

    def _told(self, news: News) -> Told:
        run_id = news.job.run_id
        message = to_message(news).SerializeToString()
        progress, log = self._progress.get(run_id), self._logs.get(run_id)
        return Told(news.job, message, progress, log, self._notes.get(run_id, ()))
