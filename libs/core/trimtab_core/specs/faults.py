"""What is wrong with a document, all of it, in sentences."""

from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import suppress
from copy import deepcopy
from typing import Annotated, Any, Final, get_args

from pydantic import TypeAdapter, ValidationError

from trimtab_core.specs.base import Place, Spec, shown_value
from trimtab_core.specs.gates import OneGate, gate_of
from trimtab_core.specs.resources import KINDS, PROJECT_TESTS, AnyResource, parse

_RULES: Final[Place] = ("spec", "alerts", "rules")


def faults(error: ValidationError, kind: str, document: Mapping[str, Any]) -> list[tuple[Place, str]]:
    """Return all that is wrong with a document that `parse` refused: each place, with value and remedy in a sentence.

    What goes together is looked at wherever its values can be read, whatever else is wrong.
    """
    wrong = error.errors(include_url=False)
    found = [(_place(fault), _sentence(fault)) for fault in wrong if not _follows(fault, wrong)]
    return list(
        dict.fromkeys([*found, *_all_disagreements(_readable((KINDS | PROJECT_TESTS)[kind], document), ())])
    )


def read_back(kind: str, document: Mapping[str, Any]) -> tuple[AnyResource, list[tuple[Place, str]]]:
    """Return a resource that was accepted once, and what of it this version would refuse.

    What it refuses of a model's alert rules, or of how it is monitored, the model is read without: what it has watched is
    no reason for it not to answer.

    Raises:
        pydantic.ValidationError: it refuses more than that.
        KeyError: there is no such kind.
    """
    left: dict[str, Any] = deepcopy(dict(document))
    told, rules = list[tuple[Place, str]](), list(range(_rules(left)))
    while True:  # what is left out may be asked for by what was right with it
        try:
            return parse(kind, left), told
        except ValidationError as error:
            wrong = faults(error, kind, left)
            refused = {place[3] for place, _ in wrong if place[:3] == _RULES and len(place) > 3}
            if not _leave_out(left, refused, wrong):
                raise
            told += [(_numbered(place, rules), said) for place, said in wrong]
            rules = [number for at, number in enumerate(rules) if at not in refused]


def _rules(document: Mapping[str, Any]) -> int:
    """Return how many alert rules a document has, if it is of a model that has any."""
    with suppress(AttributeError, TypeError):
        return len(document["spec"].get("alerts", {}).get("rules", ()))
    return 0


def _leave_out(document: dict[str, Any], rules: Collection[Any], wrong: Sequence[tuple[Place, str]]) -> bool:
    """Take the alert `rules` and the parts of monitoring that are wrong out of a model, and return whether there were any."""
    if rules:
        held = document["spec"]["alerts"]["rules"]
        document["spec"]["alerts"]["rules"] = [rule for at, rule in enumerate(held) if at not in rules]
    watched = {place[2] for place, _ in wrong if place[:2] == ("spec", "monitoring") and len(place) > 2}
    gone = [name for name in watched if document["spec"]["monitoring"].pop(name, None) is not None]
    return bool(rules or gone)


def _numbered(place: Place, rules: Sequence[int]) -> Place:
    """Return a place with an alert rule as the whole document numbers it, of which `rules` are left."""
    if place[:3] != _RULES or len(place) < 4:
        return place
    return (*_RULES, rules[int(place[3])], *place[4:])


def _place(fault: Any) -> Place:
    """Return where a fault is; which of several forms a part was taken for is no place in the document."""
    return tuple(part for part in fault["loc"] if not str(part).startswith("<"))


def _all_disagreements(part: Spec, at: Place) -> Iterator[tuple[Place, str]]:
    """Yield what does not go together in a readable part at `at`, and in the parts below it."""
    for name, held in part.__dict__.items():
        below = held.items() if isinstance(held, dict) else enumerate(held) if isinstance(held, tuple) else ()
        for place, each in [((name,), held), *(((name, key), each) for key, each in below)]:
            if isinstance(each, Spec):
                yield from _all_disagreements(each, (*at, *place))
    with suppress(AttributeError):  # it asks for what could not be read
        for place, said in part._disagreements():
            yield (*at, *place), said


def _readable(kind: type[Spec], raw: Any) -> Spec:
    """Return a part with those of its fields that can be read; an attribute is missing where one cannot."""
    values: dict[str, Any] = {}
    for name, field in kind.model_fields.items():
        key = field.alias or name
        if isinstance(raw, Mapping) and key in raw:
            with suppress(ValidationError):
                values[name] = _read(field.annotation, field.metadata, raw[key])
        elif not field.is_required():
            values[name] = field.get_default(call_default_factory=True)
    part = kind.model_construct()
    part.__dict__.clear()
    part.__dict__.update(values)
    return part


def _read(annotation: Any, metadata: list[Any], raw: Any) -> Any:
    of = get_args(annotation)
    if isinstance(annotation, type) and issubclass(annotation, Spec):
        return _readable(annotation, raw)
    if of and isinstance(of[-1], type) and issubclass(of[-1], Spec) and isinstance(raw, Mapping):
        return {key: _readable(of[-1], each) for key, each in raw.items()}
    if of and of[0] == OneGate and isinstance(raw, list | tuple):
        return tuple(_readable(gate_of(each), each) for each in raw)
    if of and isinstance(of[0], type) and issubclass(of[0], Spec) and isinstance(raw, list | tuple):
        return tuple(_readable(of[0], each) for each in raw)
    return TypeAdapter(Annotated[(annotation, *metadata)] if metadata else annotation).validate_python(raw)


def _follows(fault: Any, wrong: Sequence[Any]) -> bool:
    """Return whether a list is too short only because some of its items are wrong."""
    place = tuple(fault["loc"])
    return fault["type"] == "too_short" and any(
        each["loc"][: len(place)] == place and each["loc"] != place for each in wrong
    )


_BOUNDS: Final = {
    "greater_than": ("small", "above", "gt"),
    "greater_than_equal": ("small", "of at least", "ge"),
    "less_than": ("large", "below", "lt"),
    "less_than_equal": ("large", "of at most", "le"),
}
"""Of a fault's type: what the value is too much of, what to write in words, and where the bound is."""


def _as_list(value: Any) -> str:
    """Return how a list of a value is written, whose texts need no quotes."""
    return f"[{value}]" if isinstance(value, str) else f"[{shown_value(value)}]"


def _sentence(fault: Any) -> str:
    value, context = shown_value(fault["input"]), fault.get("ctx", {})
    match fault["type"]:
        case "missing":
            return "it is missing: add it"
        case "extra_forbidden":
            return f"there is no such key (its value is {value}): remove it, or mend its spelling"
        case "literal_error":
            return f"{value} is not allowed: write {context['expected']}"
        case "unfit" | "value_error":
            return str(context.get("said") or context["error"])
        case "string_pattern_mismatch":
            return f"{value} is no name of the form {context['pattern']}: change it"
        case "tuple_type" | "list_type":
            return f"{value} is no list: write one, like {_as_list(fault['input'])}"
        case "model_type" | "dict_type":
            return f"{value} is no mapping: write keys, each with its value"
        case "string_type":
            return f"{value} is no text: write it in quotes, like '{fault['input']}'"
        case "bool_type" | "bool_parsing":
            return f"{value} is neither true nor false: write one of them"
        case "int_type" | "int_parsing" | "int_from_float":
            return f"{value} is no whole number: write one"
        case "float_type" | "float_parsing" | "finite_number":
            return f"{value} is no number: write one"
        case "greater_than" | "greater_than_equal" | "less_than" | "less_than_equal" as kind:
            word, bound, name = _BOUNDS[kind]
            return f"{value} is too {word}: write a number {bound} {context[name]:g}"
        case "too_short":
            return f"{value} has too few: write at least {context['min_length']}"
        case "too_long":
            return f"{value} has too many: write at most {context['max_length']}"
        case _:
            return f"{value} will not do: {fault['msg'][:1].lower()}{fault['msg'][1:]}"
