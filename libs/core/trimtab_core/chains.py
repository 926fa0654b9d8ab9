"""Sources whose events are a model's predictions: what a row of them may hold, and what they have to agree with.

Each event that the model scores gives one row, with the event's own fields by their
names and what was said of it beside them. It keeps the event's key, partition, event
time and arrival: so such a source is keyed, timed and cut as the model's own.
"""

import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Final

from trimtab_core.durations import format_duration
from trimtab_core.specs import FieldSpec, ModelSpec, Place, SourceSpec

PREDICTION: Final = "prediction"
"""The number, the probability of the positive class, or of a multiclass task the class by name."""
PREDICTION_ID: Final = "prediction_id"
"""As on `scores.<source>` and in the log."""
PREDICTION_VERSION: Final = "prediction_version"
"""The number of the version that answered."""
_AS_IT_WAS: Final = ("type", "unit", "timezone")


def said(model: ModelSpec) -> Mapping[str, str]:
    """Return the types of the fields that a model's predictions have of themselves, by name."""
    fields = {
        PREDICTION: "string" if model.task == "multiclass" else "number",
        PREDICTION_ID: "string",
        PREDICTION_VERSION: "integer",
    }
    if model.task == "multiclass":
        fields |= dict.fromkeys(probabilities(model.label.classes), "number")
    return fields


def probabilities(classes: Sequence[str]) -> Mapping[str, int]:
    """Return the fields of the probabilities of classes, by name, and which class each is of.

    What is no letter, digit or _ in a class is _ there; a name that would be of two classes is of none.
    """
    names = [f"probability_{re.sub(r'[^A-Za-z0-9_]', '_', each)}" for each in classes]
    counts = Counter(names)
    return {name: at for at, name in enumerate(names) if counts[name] == 1}


def disagreements(source: SourceSpec, model: ModelSpec, scored: SourceSpec) -> Iterator[tuple[Place, str]]:
    """Yield what a source of a model's predictions says otherwise than these are, where the model scores the events of `scored`."""
    if "stream" not in model.score:
        yield (
            ("predictions_of",),
            f"{source.predictions_of!r} scores no events: add stream to its score, for its events' predictions are these",
        )
    for role in ("key", "event_time", "partitions"):
        mine, theirs = getattr(source, role), getattr(scored, role)
        if mine != theirs:
            yield (
                (role,),
                f"{mine!r} is {theirs!r} in source {model.source!r}, whose events are scored: write {theirs}",
            )
    if source.lateness < scored.lateness:
        mine, theirs = format_duration(source.lateness), format_duration(scored.lateness)
        yield (
            ("lateness",),
            f"{mine!r} is shorter than that of source {model.source!r}, whose events are scored: write {theirs} or more",
        )
    offered = said(model)
    for name, field in source.fields.items():
        yield from (
            (("fields", name, *place), sentence)
            for place, sentence in _field(name, field, offered, model, scored)
        )


def _field(
    name: str, field: FieldSpec, offered: Mapping[str, str], model: ModelSpec, scored: SourceSpec
) -> Iterator[tuple[Place, str]]:
    if name in offered:
        if field.type != offered[name]:
            yield ("type",), f"{field.type!r} is {offered[name]} in a prediction: write {offered[name]}"
        return
    if (theirs := scored.fields.get(name)) is None:
        known = ", ".join(offered)
        yield (
            (),
            f"it is no field of source {model.source!r}, nor one of {known}: remove it, or mend its name",
        )
        return
    for key in _AS_IT_WAS:
        if getattr(field, key) != (wanted := getattr(theirs, key)):
            remedy = "remove it" if wanted is None else f"write {wanted}"
            yield (key,), f"{getattr(field, key)!r} is {wanted!r} in source {model.source!r}: {remedy}"
    if field.sent_in is not None:
        yield ("sent_in",), f"{field.sent_in!r} was converted when the event came in: remove it"
