"""What people call a version: aliases, which move, and tags, which say something of it.

An alias names one version of its model, and what it named before is in the audit log.
"""

import re
from collections.abc import Collection, Mapping
from dataclasses import replace

from trimtab_runtime.clock import Clock

from trimtab_registry.errors import BadName, NotNow, UnknownAlias, Unsigned
from trimtab_registry.usecases import lifecycle
from trimtab_registry.usecases.entities import Entry, Stage, Version
from trimtab_registry.usecases.holding import COMPUTED
from trimtab_registry.usecases.ports import Store

_FORM = re.compile(r"[a-z][a-z0-9._-]{0,79}")
_MOST_TAGS, _MOST_VALUE = 64, 500


class Names:
    """Gives, moves and removes aliases and tags."""

    def __init__(self, store: Store, clock: Clock) -> None:
        self._store = store
        self._clock = clock

    async def alias(self, model: str, alias: str, number: int, *, actor: str, comment: str) -> int:
        """Make an alias name a version, or nothing where `number` is 0; return what it named until now, or 0.

        Raises:
            Unsigned: nobody does it.
            BadName: it is no alias, or none that people give.
            UnknownModel, UnknownVersion, UnknownAlias: there is no such thing.
            NotNow: the version is retired, or its files are gone.
        """
        if not actor:
            raise Unsigned("actor", "say who names it")
        _check("alias", alias)
        if alias in COMPUTED:
            raise BadName("alias", alias, "follows what serves, and nobody gives it: choose another name")
        await lifecycle.known(self._store, model)
        async with self._store.begin() as unit:
            await unit.lock(model)
            before = await unit.called(model, alias)
            if number == 0 and before is None:
                raise UnknownAlias(model, alias)
            if number == (before.number if before else 0):
                return number
            wanted = await lifecycle.the_version(unit, model, number) if number else None
            if wanted is not None:
                _usable(wanted)
            if before is not None:
                await unit.set_names(
                    replace(before, aliases=tuple(name for name in before.aliases if name != alias))
                )
            if wanted is not None:
                await unit.set_names(replace(wanted, aliases=(*wanted.aliases, alias)))
            said = comment or (f"{alias} names version {number}" if number else f"{alias} names nothing now")
            await unit.record(
                Entry(
                    f"Model/{model}",
                    "aliased" if number else "unaliased",
                    actor,
                    said,
                    self._clock.now_ms(),
                    {"alias": alias}
                    | ({"version": number} if number else {})
                    | ({"before": before.number} if before else {}),
                )
            )
            return before.number if before else 0

    async def tag(
        self, model: str, number: int, put: Mapping[str, str], remove: Collection[str], *, actor: str, comment: str
    ) -> Version:  # fmt: skip
        """Put tags on a version and take others off, and return it; what is so already is no change.

        Raises:
            Unsigned: nobody does it.
            BadName: a key or a value is none that a tag can have, or there are too many.
            UnknownModel, UnknownVersion: there is no such thing.
        """
        if not actor:
            raise Unsigned("actor", "say who tags")
        for key, value in put.items():
            _check("tag", key)
            if not value or len(value) > _MOST_VALUE:
                raise BadName("tag", key, f"has no value, or a longer one than {_MOST_VALUE}: shorten it")
        await lifecycle.known(self._store, model)
        async with self._store.begin() as unit:
            await unit.lock(model)
            version = await lifecycle.the_version(unit, model, number)
            tags = {key: held for key, held in {**version.tags, **put}.items() if key not in remove}
            if len(tags) > _MOST_TAGS:
                raise BadName("tag", next(iter(put)), f"is one too many: {_MOST_TAGS} are the most")
            if tags == version.tags:
                return version
            tagged = replace(version, tags=tags)
            await unit.set_names(tagged)
            before = {key: held for key, held in version.tags.items() if tags.get(key) != held}
            now = {key: held for key, held in tags.items() if version.tags.get(key) != held}
            said = comment or ", ".join(
                [f"{key}={held}" for key, held in now.items()]
                + [f"no {key}" for key in before if key not in now]
            )
            await lifecycle.audit(
                unit, version, "tagged", said, actor=actor, at_ms=self._clock.now_ms(), put=now, before=before
            )
            return tagged


def _check(what: str, name: str) -> None:
    if not _FORM.fullmatch(name):
        raise BadName(what, name, "is no name: write a letter and then up to 79 of a to z, 0 to 9 and . _ -")


def _usable(version: Version) -> None:
    if version.stage in (Stage.RETIRED, Stage.REJECTED):
        raise NotNow(
            f"version {version.number} of {version.model!r} is {version.stage.value.lower()} and can be called nothing"
        )
    lifecycle.check_files(version)
