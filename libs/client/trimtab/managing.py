"""What a client asks of the registry besides versions that serve: names, ends, histories, and files that nothing needs."""

from collections.abc import Collection, Mapping, Sequence
from typing import Any

from google.protobuf import json_format
from trimtab_contracts.registry.v1 import registry_pb2 as registry
from trimtab_runtime.errors import Rejected

KINDS = {
    "source": "Source",
    "featureview": "FeatureView",
    "view": "FeatureView",
    "table": "Table",
    "model": "Model",
    "modeltest": "ModelTest",
}
"""How a kind may be written, in small letters."""


def place(text: str) -> tuple[str, str]:
    """Return kind and name of a text such as `model/trip-minutes`.

    Raises:
        Rejected: it is none.
    """
    kind, _, name = text.partition("/")
    if kind.lower() not in KINDS or not name:
        raise Rejected(f"{text!r} names no spec: write KIND/NAME, with a kind of {', '.join(KINDS)}")
    return KINDS[kind.lower()], name


def document(resource: registry.Resource) -> dict[str, Any]:
    """Return a spec as plain data; a whole number is one, which a Struct does not tell from 4.0."""
    plain: dict[str, Any] = _whole(json_format.MessageToDict(resource.document))
    return plain


def _whole(value: Any) -> Any:
    match value:
        case dict():
            return {key: _whole(held) for key, held in value.items()}
        case list():
            return [_whole(held) for held in value]
        case float() if value.is_integer():
            return int(value)
    return value


class Managing:
    """A part of `Trimtab`; its names and its endings."""

    _registry: Any

    async def resource(self, kind: str, name: str, generation: int = 0) -> registry.Resource:
        """Return a spec as applied, at present or in a generation of it.

        Raises:
            NotFound: there is no such spec, or it has no such generation.
        """
        request = registry.GetResourceRequest(kind=kind, name=name, generation=generation)
        found: registry.Resource = await self._registry.GetResource(request)
        return found

    async def generations(self, kind: str, name: str) -> list[registry.Resource]:
        """Return every generation of a spec, oldest first, those included that took it away."""
        request = registry.ListGenerationsRequest(kind=kind, name=name)
        return list((await self._registry.ListGenerations(request)).resources)

    async def delete(self, kind: str, name: str, *, actor: str, comment: str = "") -> registry.Resource:
        """Take a spec away that nothing leans on.

        Raises:
            Conflict: others need it, or it is a model that serves; it says which.
        """
        request = registry.DeleteResourceRequest(kind=kind, name=name, actor=actor, comment=comment)
        gone: registry.Resource = await self._registry.DeleteResource(request)
        return gone

    async def called(self, model: str, name: str) -> registry.Version:
        """Return the version of a model that has a number or an alias; champion, challenger and previous are such."""
        request = registry.ListVersionsRequest(model=model, called=name)
        found: registry.Version = (await self._registry.ListVersions(request)).versions[0]
        return found

    async def alias(self, model: str, alias: str, number: int, *, actor: str, comment: str = "") -> int:
        """Make an alias name a version, or nothing where `number` is 0; return what it named until now, or 0."""
        request = registry.SetAliasRequest(
            model=model, alias=alias, number=number, actor=actor, comment=comment
        )
        return int((await self._registry.SetAlias(request)).before)

    async def tag_version(
        self, model: str, number: int, put: Mapping[str, str], remove: Collection[str] = (), *, actor: str, comment: str = ""
    ) -> registry.Version:  # fmt: skip
        """Put tags on a version and take others off; a tag `pin` keeps the version and its files."""
        request = registry.TagVersionRequest(
            model=model, number=number, put=put, remove=remove, actor=actor, comment=comment
        )
        tagged: registry.Version = await self._registry.TagVersion(request)
        return tagged

    async def retire(self, model: str, number: int = 0, *, actor: str, comment: str = "") -> list[int]:
        """Let a version go for good or, without a number, take the model out of service; return what was retired.

        Raises:
            Conflict: it is in use; it says for what.
        """
        request = registry.RetireRequest(model=model, number=number, actor=actor, comment=comment)
        return list((await self._registry.Retire(request)).retired)

    async def begin_test(
        self, model: str, numbers: Sequence[int], shares: Sequence[int] = (), *, actor: str, comment: str = ""
    ) -> registry.Deployment:
        """Test versions beside the champion, each answering its percent of the keys; the best that is better is promoted.

        Without `shares` each version has what the spec says or, if it has other than so many, as much as the champion.

        Raises:
            Rejected: they make no test.
            Conflict: there is no champion, or a version may not serve as things are.
        """
        request = registry.BeginTestRequest(
            model=model, numbers=numbers, shares=shares, actor=actor, comment=comment
        )
        wanted: registry.Deployment = await self._registry.BeginTest(request)
        return wanted

    async def end_trial(self, model: str, *, actor: str, comment: str = "") -> registry.Deployment:
        """End what is on trial, an A/B test, a canary or a shadow, without a winner; the champion stays.

        Raises:
            Conflict: nothing is on trial.
        """
        request = registry.EndTrialRequest(model=model, actor=actor, comment=comment)
        wanted: registry.Deployment = await self._registry.EndTrial(request)
        return wanted

    async def collect_artifacts(self, *, actor: str, dry_run: bool) -> registry.CollectArtifactsResponse:
        """Throw away the files of versions that nothing has needed for as long as the registry keeps them."""
        request = registry.CollectArtifactsRequest(actor=actor, dry_run=dry_run)
        found: registry.CollectArtifactsResponse = await self._registry.CollectArtifacts(request)
        return found
