"""Versions that are to become one: what their runs left, and what each counts."""

import math
from collections.abc import Sequence

from google.protobuf import json_format
from trimtab_contracts.registry.v1.registry_pb2 import Member, VersionRef
from trimtab_contracts.training.v1.training_pb2 import RegisteredModel, RunEvent
from trimtab_core.naming import listed
from trimtab_runtime.clock import from_timestamp

from trimtab_trainer.errors import BadEnsemble, UnknownRun
from trimtab_trainer.usecases.ports import Store


async def ensemble(store: Store, model: str, members: Sequence[Member]) -> RegisteredModel:
    """Return the mean of some versions as a model to be judged, which has seen what any of them has.

    Raises:
        BadEnsemble: they are too few, one is named twice, or weighs what cannot be weighed, or is none of the model's.
        UnknownRun: there is none of a member's run.
    """
    numbers = [member.version for member in members]
    if len(set(numbers)) < max(2, len(numbers)):
        named = ", ".join(map(str, numbers)) or "none"
        raise BadEnsemble(f"members are {named}: name two versions or more, each once")
    weights = [member.weight for member in members]
    if not any(weights):
        weights = [1.0] * len(members)
    for number, weight in zip(numbers, weights, strict=True):
        if not (math.isfinite(weight) and weight > 0):
            raise BadEnsemble(
                f"the weight of version {number} is {weight:g}: write a number over 0, or leave all weights out"
            )
    total = sum(weights)
    parts = [
        await _part(store, model, member, weight / total)
        for member, weight in zip(members, weights, strict=True)
    ]
    said = [f"{part.member.version} ({part.member.weight:.4g})" for part in parts]
    return RegisteredModel(
        parts=parts,
        trained_to=max((part.version.trained_to for part in parts), key=from_timestamp),
        origin=f"versions {listed(said)}",
    )


async def _part(store: Store, model: str, member: Member, weight: float) -> RegisteredModel.Part:
    told = await store.get(member.run_id)
    if told is None:
        raise UnknownRun(member.run_id)
    event = RunEvent.FromString(told.message)
    if event.model != model or not event.HasField("candidate"):
        raise BadEnsemble(
            f"run {member.run_id!r} made no version of model {model!r}: name versions of that model"
        )
    made = event.candidate
    if not made.HasField("document"):
        raise BadEnsemble(
            f"version {member.version} is older than the record of what runs are made of: leave it out"
        )
    return RegisteredModel.Part(
        member=Member(version=member.version, run_id=member.run_id, weight=weight),
        version=VersionRef(
            number=member.version,
            model=made.model,
            features=made.features,
            trained_to=made.trained_to,
            classes=made.classes,
            texts=made.texts,
        ),
        task=json_format.MessageToDict(made.document)["spec"]["task"],
    )
