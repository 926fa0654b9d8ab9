"""From the wanted state to the versions that answer.

Whatever is wanted is loaded and warmed first, and only then put on the board, by one
assignment; so a swap fails no request. A version that cannot be loaded leaves the
board as it is and reports its sentence: a champion is only ever replaced by one that
has answered.
"""

import asyncio
import logging
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType

from trimtab_runtime import telemetry
from trimtab_runtime.errors import NotFound, TrimtabError, Unavailable

from trimtab_serving.errors import CannotServe, NoLiveVersion
from trimtab_serving.files import ModelFiles, StoredFile
from trimtab_serving.routing import NOBODY, Arms
from trimtab_serving.rows import RowReader
from trimtab_serving.snapshot import Board, Served, Snapshot
from trimtab_serving.versions import Version, load

log = logging.getLogger(__name__)

RETRY_S = 1.0
PATIENCE = 5
"""How often loading may fail for a want of something else, such as a store that is away, before that is reported."""


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

    def refs(self) -> list[Ref]:
        """Return the versions that are to be warm, the most urgent first."""
        return [ref for ref in (self.champion, self.challenger, self.previous) if ref is not None]


@dataclass(frozen=True, slots=True)
class Standing:
    """What became of a model's wanted state here."""

    wanted: Wanted
    generation: int
    """Of the wanted state that the versions below were loaded for."""
    champion_version: int
    """The version that answers; 0 for none."""
    versions: Sequence[tuple[int, bool, str]]
    """Number, whether it is warm, and if not, why."""


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
        reader_of: Callable[[str], RowReader],
        on_change: Callable[[], None],
    ) -> None:
        """`reader_of` raises a `TrimtabError` for a model whose specs are not there; `on_change` hears of news."""
        self._board = board
        self._files = files
        self._reader_of = reader_of
        self._on_change = on_change
        self._models: dict[str, _Model] = {}
        self._known: frozenset[str] = frozenset()
        self._dirty = asyncio.Event()

    def want(self, wanted: Wanted) -> None:
        """Take a model's wanted state, unless a newer one is known."""
        held = self._models.get(wanted.model)
        if held is None:
            self._models[wanted.model] = _Model(wanted)
        elif wanted.generation >= held.wanted.generation:
            held.wanted = wanted
        self._dirty.set()

    def forget(self, model: str) -> None:
        """Serve a model no longer."""
        self._models.pop(model, None)
        self._dirty.set()

    def know(self, models: Iterable[str]) -> None:
        """Take the names of all models whose specs are applied; what failed for want of a spec is tried again."""
        self._known = frozenset(models)
        for held in self._models.values():
            held.loaded = {place: loaded for place, loaded in held.loaded.items() if loaded.version}
        self._dirty.set()

    async def run(self) -> None:
        """Settle whenever something changes, until cancelled."""
        while True:
            try:
                async with asyncio.timeout(RETRY_S):
                    await self._dirty.wait()
            except TimeoutError:
                if not any(
                    loaded.attempts for held in self._models.values() for loaded in held.loaded.values()
                ):
                    continue
            await self.settle()

    async def settle(self) -> None:
        """Load what is wanted and not loaded, and show it on the board as it becomes warm."""
        self._dirty.clear()
        self._show()
        for held in list(self._models.values()):
            wanted = held.wanted
            for ref in wanted.refs():
                place = (ref.number, ref.model.digest)
                before = held.loaded.get(place)
                if before is None or before.attempts:
                    held.loaded[place] = await self._load(wanted, ref, before.attempts if before else 0)
                    self._show()
            keep = {(ref.number, ref.model.digest) for ref in wanted.refs()}
            held.loaded = {place: loaded for place, loaded in held.loaded.items() if place in keep}
            held.settled = wanted.generation
            self._show()
        refs = [ref for held in self._models.values() for ref in held.wanted.refs()]
        stored = [file for ref in refs for file in (ref.model, ref.reference) if file is not None]
        self._files.keep_only({file.digest for file in stored})

    def wants(self, model: str) -> bool:
        """Return whether a version is to answer for a model, be it loaded or not."""
        held = self._models.get(model)
        return held is not None and held.wanted.champion is not None

    def standings(self) -> list[Standing]:
        """Return what became of each wanted state."""
        return [self._standing(held) for held in self._models.values()]

    def _standing(self, held: _Model) -> Standing:
        served = self._board.current.served.get(held.wanted.model)
        versions = []
        for ref in held.wanted.refs():
            loaded = held.loaded.get((ref.number, ref.model.digest), _Loaded())
            versions.append((ref.number, loaded.version is not None, loaded.error))
        number = served.champion.number if served is not None else 0
        return Standing(held.wanted, held.settled, number, versions)

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
                return _Loaded(error=str(error))
        log.info("%s is warm", name)
        return _Loaded(version)

    def _open(self, model: str, ref: Ref) -> Version:
        reference = None
        if ref.reference is not None:
            reference = self._files.fetch(ref.reference)
        onnx = self._files.fetch(ref.model)
        return load(model, ref.number, ref.features, onnx, reference, classes=ref.classes, texts=ref.texts)

    def _show(self) -> None:
        """Put on the board what can answer now."""
        served, silent = dict[str, Served](), dict[str, str]()
        for model in self._known:
            held, now = self._models.get(model), self._board.current.served.get(model)
            if held is not None and held.wanted.champion is None:
                now = None  # its first version is on its way, or it was taken out of service
            try:
                if held is None:
                    raise NoLiveVersion(model)
                served[model] = _serve(held, self._reader_of(model), now)
            except TrimtabError as error:
                if held is not None and now is not None:
                    served[model] = now  # a spec that does not fit unseats nobody
                else:
                    silent[model] = str(error)
        self._board.current = Snapshot(MappingProxyType(served), MappingProxyType(silent))
        self._on_change()


def _serve(held: _Model, reader: RowReader, now: Served | None) -> Served:
    wanted = held.wanted
    loaded = [held.version(ref) for ref in (wanted.champion, wanted.challenger, wanted.previous)]
    usable = [version if version and _has_features(reader, version) else None for version in loaded]
    champion, challenger, previous = usable
    champion = champion or (now.champion if now and _has_features(reader, now.champion) else previous)
    if champion is None or wanted.champion is None:
        raise NoLiveVersion(wanted.model, held.why())
    warm = {version.number: version for version in (challenger, previous, champion) if version}
    return Served(
        model=wanted.model,
        generation=wanted.generation,
        champion=champion,
        challenger=challenger if challenger is not champion else None,
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
