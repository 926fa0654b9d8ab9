"""Configuration from the environment into a frozen dataclass, all faults at once.

A field `margin` of the registry's `Config` is set by `TRIMTAB_REGISTRY_MARGIN` or,
where that is absent, by `TRIMTAB_MARGIN`, which all services share, or by the variable
that the field's metadata names as `also`, if others have one for it. A field with no
default must be set.
"""

import dataclasses
import types
import typing
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

from trimtab_runtime.errors import Rejected

C = TypeVar("C")


class BadSettings(Rejected):
    """The environment does not make a configuration; it says everything that is wrong."""

    def __init__(self, service: str, faults: list[str]) -> None:
        super().__init__(f"{service} cannot start: " + "; ".join(faults))


def load(config: type[C], service: str, environ: Mapping[str, str]) -> C:
    """Build `config`, a dataclass, from `environ`.

    Raises:
        BadSettings: something is missing or of the wrong form.
    """
    hints = typing.get_type_hints(config)
    values: dict[str, Any] = {}
    faults: list[str] = []
    for field in dataclasses.fields(config):  # type: ignore[arg-type]
        names = [f"TRIMTAB_{service}_{field.name}".upper(), f"TRIMTAB_{field.name}".upper()]
        names += [field.metadata["also"]] if "also" in field.metadata else []
        name = next((name for name in names if environ.get(name)), None)
        if name is not None:
            try:
                values[field.name] = _convert(environ[name], hints[field.name])
            except ValueError:
                faults.append(f"{name} is {environ[name]!r}, which is no {_describe(hints[field.name])}")
        elif field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING:
            faults.append(f"{names[1]} is not set: give it a {_describe(hints[field.name])}")
    if faults:
        raise BadSettings(service, faults)
    return config(**values)


def _convert(text: str, hint: Any) -> Any:
    if isinstance(hint, types.UnionType):
        hint = next(option for option in typing.get_args(hint) if option is not types.NoneType)
    if hint is bool:
        lowered = text.lower()
        if lowered not in ("true", "false", "1", "0"):
            raise ValueError(text)
        return lowered in ("true", "1")
    if hint in (int, float, str, Path):
        return hint(text)
    raise TypeError(f"settings cannot hold a {hint}")


def _describe(hint: Any) -> str:
    names = {bool: "true or false", int: "whole number", float: "number", Path: "path"}
    return names.get(hint, "text")
