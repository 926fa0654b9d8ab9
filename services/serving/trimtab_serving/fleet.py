"""From the wanted state to the versions that answer.

Whatever is wanted is loaded and warmed first, and only then put on the board, by one
assignment; so a swap fails no request. A version that cannot be loaded leaves the
board as it is and reports its sentence: a champion is only ever replaced by one that
has answered. Every wanted version is loaded once, and so checked, before it is shown;
after that one that nobody asks may go cold, unless it is on trial.
"""

import asyncio
import logging
import traceback
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass, field
from functools import partial
from types import MappingProxyType

from trimtab_runtime import telemetry
from trimtab_runtime.errors import NotFound, TrimtabError, Unavailable

from trimtab_serving.cache import SessionCache
from trimtab_serving.errors import CannotServe, NoLiveVersion
from trimtab_serving.files import ModelFiles, StoredFile
from trimtab_serving.repeats import Answers, remembering
from trimtab_serving.routing import NOBODY, Arms
from trimtab_serving.rows import RowReader
from trimtab_serving.snapshot import Board, Served, Snapshot
from trimtab_serving.versions import Version, load

log = logging.getLogger(__name__)

RETRY_S = 1.0
PATIENCE = 5
"""How often loading may fail for a want of something else, such as a store that is away, before that is reported."""
LOADING = 4
"""Models whose versions are fetched and loaded at once."""


@dataclass(frozen=True, slots=True)
class Ref:
    """A version as the registry names it."""

    number: int
    features: tuple[str, ...]
    model: StoredFile
    reference: StoredFile | None = None
    classes: tuple[str, ...] = ()
    texts: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Wanted:
    """The wanted state of a model."""

    model: str
    generation: int
    champion: Ref | None
    challenger: Ref | None = None
    previous: Ref | None = None
    arms: Arms = NOBODY
    loop_id: str = ""
    traceparent: str | None = None
    others: tuple[Ref, ...] = ()
    """On trial beside the challenger."""

    @property
    def challengers(self) -> tuple[Ref, ...]:
        """All that are on trial."""
        return (self.challenger, *self.others) if self.challenger is not None else ()

    def refs(self) -> list[Ref]:
        """Return the versions that are to be warm, the most urgent first."""
        return [ref for ref in (self.champion, *self.challengers, self.previous) if ref is not None]


@dataclass(frozen=True, slots=True)
class Standing:
    """What became of a model's wanted state here."""

    wanted: Wanted
    generation: int
    """Of the wanted state that the versions below were loaded for."""
    champion_version: int
    """The version that answers; 0 for none."""
    versions: Sequence[tuple[int, bool, str]]
    """Number, whether it is in memory, and why not if it cannot be loaded."""
    cold: Collection[int] = ()
    """Those that were checked, and are loaded again by the request that asks them."""
    bytes: int = 0
    """What those in memory take, estimated."""


@dataclass(slots=True)
class _Loaded:
    """What loading a version came to."""

    version: Version | None = None
    error: str = ""
    """Why not, once it is certain."""
    attempts: int = 0
    """How often it was tried in vain where trying again may help."""


@dataclass(slots=True)
class _Model:
    wanted: Wanted
    settled: int = -1
    """The newest generation that was brought about, as far as it can be."""
    loaded: dict[tuple[int, str], _Loaded] = field(default_factory=dict)

    def version(self, ref: Ref | None) -> Version | None:
        found = self.loaded.get((ref.number, ref.model.digest)) if ref is not None else None
        return found.version if found is not None else None

    @property
    def is_tried_again(self) -> bool:
        """Whether a version could not be loaded for want of something that may come."""
        return any(loaded.attempts for loaded in self.loaded.values())

    @property
    def is_waited_for(self) -> bool:
        """Whether one of those has not been tried often enough to say so."""
        return any(loaded.attempts and not loaded.error for loaded in self.loaded.values())

    def why(self) -> str:
        """Return why nothing answers."""
        errors = [loaded.error for loaded in self.loaded.values() if loaded.error]
        if errors:
            return errors[0]
        return "it is being loaded" if self.wanted.champion else "none has been promoted"


class Fleet:
    """Brings about the wanted state of all models; lives on the event loop's thread."""

    def __init__(
        self,
        board: Board,
        files: ModelFiles,
        cache: SessionCache,
        reader_of: Callable[[str], RowReader],
        on_change: Callable[[Collection[str]], None],
        *,
        always_warm: Collection[str] = (),
    ) -> None:
        """`reader_of` raises a `TrimtabError` for a model whose specs are not there.

        `on_change` hears of which models there is news. Champions of models that are `always_warm` never go cold.
        """
        self._board = board
        self._files = files
        self._cache = cache
        self._reader_of = reader_of
        self._on_change = on_change
        self._answers = Answers()
        self._always_warm = always_warm
        self._models: dict[str, _Model] = {}
        self._known: frozenset[str] = frozenset()
        self._changed: set[str] = set()
        self._dirty = asyncio.Event()
        self._at_once = asyncio.Semaphore(LOADING)

    def want(self, wanted: Wanted) -> None:
        """Take a model's wanted state, unless a newer one is known."""
        held = self._models.get(wanted.model)
        if held is None:
            self._models[wanted.model] = _Model(wanted)
        elif wanted.generation >= held.wanted.generation:
            held.wanted = wanted
        self._mark([wanted.model])

    def forget(self, model: str) -> None:
        """Serve a model no longer."""
        self._models.pop(model, None)
        self._mark([model])

    def know(self, models: Iterable[str]) -> None:
        """Take the names of all models whose specs are applied; what failed for want of a spec is tried again."""
        before, self._known = self._known, frozenset(models)
        for held in self._models.values():
            held.loaded = {place: loaded for place, loaded in held.loaded.items() if loaded.version}
        self._mark([*before, *self._known, *self._models])

    async def run(self) -> None:
        """Settle whenever something changes, until cancelled."""
        while True:
            try:
                async with asyncio.timeout(RETRY_S):
                    await self._dirty.wait()
            except TimeoutError:
                if not any(held.is_tried_again for held in self._models.values()):
                    continue
            await self.settle()

    async def settled(self) -> None:
        """Settle until each wanted version is warm, or is certain not to become so soon."""
        await self.settle()
        while any(held.is_waited_for for held in self._models.values()):
            await asyncio.sleep(RETRY_S)
            await self.settle()

    async def settle(self) -> None:
        """Load what is wanted and not loaded, and show it on the board as it becomes warm."""
        self._dirty.clear()
        changed, self._changed = self._changed, set()
        changed |= {model for model, held in self._models.items() if held.is_tried_again}
        self._show(changed)
        self._cache.keep(self._never_cold())
        touched = [held for model in changed if (held := self._models.get(model)) is not None]
        await asyncio.gather(*map(self._bring_about, touched))
        refs = [ref for held in self._models.values() for ref in held.wanted.refs()]
        stored = [file for ref in refs for file in (ref.model, ref.reference) if file is not None]
        self._files.keep_only({file.digest for file in stored})

    async def _bring_about(self, held: _Model) -> None:
        wanted = held.wanted
        async with self._at_once:
            for ref in wanted.refs():
                place = (ref.number, ref.model.digest)
                before = held.loaded.get(place)
                if before is None or before.attempts:
                    held.loaded[place] = await self._load(wanted, ref, before.attempts if before else 0)
                    self._show([wanted.model])
        keep = {(ref.number, ref.model.digest) for ref in wanted.refs()}
        held.loaded = {place: loaded for place, loaded in held.loaded.items() if place in keep}
        held.settled = wanted.generation
        self._show([wanted.model])

    def _never_cold(self) -> set[str]:
        """Return the digests of versions on trial, all sides of it, and of champions that are to stay."""
        found = set()
        for model, held in self._models.items():
            wanted = held.wanted
            if wanted.challengers or model in self._always_warm:
                stay = (wanted.champion, *wanted.challengers)
                found |= {ref.model.digest for ref in stay if ref is not None}
        return found

    def wants(self, model: str) -> bool:
        """Return whether a version is to answer for a model, be it loaded or not."""
        held = self._models.get(model)
        return held is not None and held.wanted.champion is not None

    def standings(self, models: Collection[str] | None = None) -> list[Standing]:
        """Return what became of the wanted state of some models, or of each."""
        if models is None:
            return [self._standing(held) for held in self._models.values()]
        return [self._standing(self._models[model]) for model in models if model in self._models]

    def _standing(self, held: _Model) -> Standing:
        served = self._board.current.served.get(held.wanted.model)
        versions, cold, taken = [], [], 0
        for ref in held.wanted.refs():
            loaded = held.loaded.get((ref.number, ref.model.digest), _Loaded())
            graph = loaded.version.graph if loaded.version is not None else None
            is_warm = graph is not None and graph.warm is not None
            versions.append((ref.number, is_warm, loaded.error))
            if graph is not None and is_warm:
                taken += graph.size
            elif graph is not None:
                cold.append(ref.number)
        number = served.champion.number if served is not None else 0
        return Standing(held.wanted, held.settled, number, versions, cold, taken)

    async def _load(self, wanted: Wanted, ref: Ref, attempts: int) -> _Loaded:
        name = f"version {ref.number} of {wanted.model}"
        with telemetry.span(
            "serving load version", parent=wanted.traceparent, model=wanted.model, version=ref.number
        ):
            try:
                self._reader_of(wanted.model).prepare(ref.features, ref.texts)
                version = await asyncio.to_thread(self._open, wanted.model, ref)
            except (Unavailable, NotFound) as error:
                log.warning("%s cannot be loaded yet: %s", name, error)
                return _Loaded(error=str(error) if attempts + 1 >= PATIENCE else "", attempts=attempts + 1)
            except TrimtabError as error:
                log.error("%s cannot be loaded: %s", name, error)
                traceback.clear_frames(error.__traceback__)  # or what it is about would stay loaded
                return _Loaded(error=str(error))
        log.info("%s is warm", name)
        return _Loaded(version)

    def _open(self, model: str, ref: Ref) -> Version:
        name = f"version {ref.number} of model {model!r}"
        reference = self._files.fetch(ref.reference) if ref.reference is not None else None
        graph = self._cache.open(name, ref.model.digest, partial(self._files.fetch, ref.model))
        return load(name, graph, ref.number, ref.features, reference, classes=ref.classes, texts=ref.texts)

    def _mark(self, models: Iterable[str]) -> None:
        self._changed.update(models)
        self._dirty.set()

    def _show(self, models: Collection[str]) -> None:
        """Put on the board what can answer now of some models."""
        current = self._board.current
        served, silent = dict(current.served), dict(current.silent)
        for model in models:
            silent.pop(model, None)
            now, held = served.pop(model, None), self._models.get(model)
            if model not in self._known:
                continue
            if held is not None and held.wanted.champion is None:
                now = None  # its first version is on its way, or it was taken out of service
            try:
                if held is None:
                    raise NoLiveVersion(model)
                served[model] = _serve(held, self._reader_of(model), now, self._answers)
            except TrimtabError as error:
                if held is not None and now is not None:
                    served[model] = now  # a spec that does not fit unseats nobody
                else:
                    silent[model] = str(error)
        self._board.current = Snapshot(MappingProxyType(served), MappingProxyType(silent))
        self._on_change(models)


def _serve(held: _Model, reader: RowReader, now: Served | None, answers: Answers) -> Served:
    wanted = held.wanted
    loaded = [held.version(ref) for ref in (wanted.champion, wanted.previous, *wanted.challengers)]
    usable = [version if version and _has_features(reader, version) else None for version in loaded]
    champion, previous, *tried = usable
    champion = champion or (now.champion if now and _has_features(reader, now.champion) else previous)
    if champion is None or wanted.champion is None:
        raise NoLiveVersion(wanted.model, held.why())
    before = now.warm.values() if now else ()
    warm = {
        version.number: remembering(version, reader.keep_ms, before, answers)
        for version in (*tried, previous, champion)
        if version
    }
    return Served(
        model=wanted.model,
        generation=wanted.generation,
        champion=warm[champion.number],
        challengers=tuple(warm[each.number] for each in tried if each and each is not champion),
        arms=wanted.arms,
        warm=MappingProxyType(warm),
        reader=reader,
    )


def _has_features(reader: RowReader, version: Version) -> bool:
    try:
        reader.prepare(version.features, version.texts)
        return True
    except CannotServe:
        return False
