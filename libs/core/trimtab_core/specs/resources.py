"""Documents: a spec with its kind and name, as users write them and services keep them."""

from collections.abc import Mapping
from typing import Annotated, Any, Final, Literal

from pydantic import Field

from trimtab_core.specs.base import Name, Place, Spec
from trimtab_core.specs.model import CardSpec, ModelSpec
from trimtab_core.specs.source import SourceSpec
from trimtab_core.specs.table import TableSpec
from trimtab_core.specs.tests import ContractTestSpec, FeatureTestSpec, ModelTestSpec
from trimtab_core.specs.view import FeatureViewSpec

API_VERSION: Final = "trimtab/v1"


class Metadata(Spec):
    """Who a resource is."""

    name: Name
    owner: str | None = None
    description: str | None = None


class _Resource(Spec):
    apiVersion: Literal["trimtab/v1"] = API_VERSION  # noqa: N815 - the name users of this form know
    metadata: Metadata

    @property
    def name(self) -> str:
        return self.metadata.name

    @property
    def key(self) -> str:
        """Kind/name, which is no other's."""
        return f"{type(self).__name__}/{self.name}"


class Source(_Resource):
    """A named source; each major version is one of its own."""

    kind: Literal["Source"] = "Source"
    spec: SourceSpec

    @property
    def name(self) -> str:
        """What topics, tables and references call it: `pickups`, and from version 2 on `pickups.v2`."""
        return versioned(self.metadata.name, self.spec.version)


class FeatureView(_Resource):
    """A named feature view."""

    kind: Literal["FeatureView"] = "FeatureView"
    spec: FeatureViewSpec


class Table(_Resource):
    """A named table."""

    kind: Literal["Table"] = "Table"
    spec: TableSpec


class Model(_Resource):
    """A named model."""

    kind: Literal["Model"] = "Model"
    spec: ModelSpec


class ModelTest(_Resource):
    """Named tests of how a model behaves."""

    kind: Literal["ModelTest"] = "ModelTest"
    spec: ModelTestSpec


class ContractTest(_Resource):
    """Named examples of what a contract lets in and what not; `trimtab test` reads it, and it is never applied."""

    kind: Literal["ContractTest"] = "ContractTest"
    spec: ContractTestSpec


class FeatureTest(_Resource):
    """Named examples of what features come to; `trimtab test` reads it, and it is never applied."""

    kind: Literal["FeatureTest"] = "FeatureTest"
    spec: FeatureTestSpec


ProjectTest = ContractTest | FeatureTest
AnyResource = Source | FeatureView | Table | Model | ModelTest
Resource = Annotated[AnyResource, Field(discriminator="kind")]

KINDS: dict[str, type[AnyResource]] = {
    "Source": Source,
    "FeatureView": FeatureView,
    "Table": Table,
    "Model": Model,
    "ModelTest": ModelTest,
}


PROJECT_TESTS: dict[str, type[ProjectTest]] = {"ContractTest": ContractTest, "FeatureTest": FeatureTest}
"""Kinds of what stays in a project."""


def parse(kind: str, document: dict[str, Any]) -> AnyResource:
    """Build the resource of `kind` from plain data.

    Raises:
        pydantic.ValidationError: the document does not fit; `faults` says everything that is wrong.
        KeyError: there is no such kind.
    """
    return KINDS[kind].model_validate(document)


def gaps(model: Model) -> list[tuple[Place, str]]:
    """Return what a model's card lacks that only people know: where it goes, and a sentence."""
    card = model.spec.card or CardSpec()
    missing: list[tuple[Place, str]] = []
    if not model.metadata.owner:
        missing.append((("metadata", "owner"), "nobody is named: say who answers for the model"))
    if not card.purpose:
        missing.append((("spec", "card", "purpose"), "it is missing: say what the model is for"))
    if not card.intended_use:
        missing.append(
            (
                ("spec", "card", "intended_use"),
                "it is missing: say who uses it where, and where not to use it",
            )
        )
    if not card.limits:
        missing.append(
            (("spec", "card", "limits"), "none is named: say where the model is known to be wrong")
        )
    return missing


def to_document(resource: AnyResource) -> dict[str, Any]:
    """Return the resource as plain data that `parse` reads back as an equal resource."""
    return resource.model_dump(mode="json", exclude_none=True, by_alias=True)


def versioned(name: str, version: int) -> str:
    """Return what a version of a source is called."""
    return name if version == 1 else f"{name}.v{version}"


def called(document: Mapping[str, Any]) -> str:
    """Return the kind/name that a document means to have, whatever is wrong with it."""
    kind, metadata, spec = (document.get(part) for part in ("kind", "metadata", "spec"))
    name = str(metadata.get("name") if isinstance(metadata, Mapping) else None)
    version = spec.get("version") if kind == "Source" and isinstance(spec, Mapping) else None
    if isinstance(version, int) or (isinstance(version, float) and version.is_integer()):
        name = versioned(name, int(version))
    return f"{kind}/{name}"


def kind_fault(kind: Any) -> str:
    """Return what is wrong with what a document says is its kind; nothing, if it is one."""
    if isinstance(kind, str) and kind in KINDS:
        return ""
    if isinstance(kind, str) and kind in PROJECT_TESTS:
        return f"{kind!r} is for `trimtab test` alone: leave it in the project"
    return f"{kind!r} is no kind of resource: write one of {', '.join(KINDS)}"
