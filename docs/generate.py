"""Writes every page of docs/ that is made and not written: `python docs/generate.py`.

The catalogue of topics comes from `trimtab_contracts.docs`, the settings from each
service's `Config`: its fields, and the words below each of them.
"""

import ast
import dataclasses
import importlib
import inspect
import typing
from pathlib import Path
from typing import Any

from trimtab_contracts import docs
from trimtab_stack.wiring import Wiring, process_name

HERE = Path(__file__).parent
SERVICES = sorted(
    path.name for path in (HERE.parent / "services").iterdir() if (path / "pyproject.toml").exists()
)

_TYPES = {str: "text", int: "whole number", float: "number", bool: "true or false", Path: "path"}
_INTRODUCTION = """\
# Configuration

Made by `python docs/generate.py` from each service's `config.py`: edit those. A service reads its environment once, when
it starts, and names everything that is missing or wrong at once. A variable that several services share, such as
`TRIMTAB_KAFKA_SERVERS`, may be set for one of them alone as `TRIMTAB_TRAINER_KAFKA_SERVERS`. `trimtab up` and
`docker-compose.yml` set all that is required.

Besides these, a service that finds `OTEL_EXPORTER_OTLP_ENDPOINT` sends its traces there. The command and the stack read
`TRIMTAB_DIR` (where `trimtab up` keeps its data, `.trimtab`), `TRIMTAB_ACTOR` (who is asking, for the audit log),
`TRIMTAB_CACHE` (where Kafka is kept once fetched, `~/.cache/trimtab`), `KAFKA_HOME` and `JAVA_HOME`; with
`TRIMTAB_KAFKA_SERVERS` or `TRIMTAB_POSTGRES_DSN` set, `trimtab up` uses that server and starts none of its own."""


def render() -> dict[str, str]:
    """Return what each page says, by its name."""
    return docs.render() | {"configuration.md": configuration_page()}


def configuration_page() -> str:
    """Return the settings of all services, a table each."""
    configs = {service: importlib.import_module(f"trimtab_{service}.config").Config for service in SERVICES}
    shared = variables_of_all()
    return (
        "\n\n".join([_INTRODUCTION, *(_section(service, configs[service], shared) for service in SERVICES)])
        + "\n"
    )


def variables_of_all() -> set[str]:
    """Return the variables that a stack sets alike for all its services."""
    names = [process_name(service, 0) for service in SERVICES]
    wiring = Wiring(
        directory=HERE, kafka_servers="", postgres_dsn="", services=dict.fromkeys(SERVICES, 1),
        ports=dict.fromkeys(names, 0), given={},
    )  # fmt: skip
    return set(wiring.for_process(SERVICES[0], 0))


def _section(service: str, config: type[Any], shared: set[str]) -> str:
    said, hints = attribute_docs(config), typing.get_type_hints(config)
    rows = [
        f"| `{_variable(service, field.name, shared)}` | {_type(hints[field.name])} | {_default(field)} "
        f"| {said[field.name]} |"
        for field in dataclasses.fields(config)
    ]
    return "\n".join([f"## {service}", "", "| variable | type | default | |", "|---|---|---|---|", *rows])


def attribute_docs(config: type[Any]) -> dict[str, str]:
    """Return the words below each attribute of a class, on one line.

    Raises:
        ValueError: an attribute has none.
    """
    body = ast.parse(inspect.getsource(config)).body[0].body  # type: ignore[attr-defined]
    found: dict[str, str] = {}
    for statement, below in zip(body, [*body[1:], None], strict=True):
        if isinstance(statement, ast.AnnAssign) and isinstance(statement.target, ast.Name):
            text = below.value if isinstance(below, ast.Expr) else None
            if not isinstance(text, ast.Constant) or not isinstance(text.value, str):
                raise ValueError(
                    f"{config.__module__}.{statement.target.id} has no words: write them below it"
                )
            found[statement.target.id] = " ".join(text.value.split())
    return found


def _variable(service: str, name: str, shared: set[str]) -> str:
    of_all, own = f"TRIMTAB_{name}".upper(), f"TRIMTAB_{service}_{name}".upper()
    return of_all if of_all in shared else own


def _type(hint: Any) -> str:
    options = [option for option in typing.get_args(hint) or (hint,) if option is not type(None)]
    return _TYPES[options[0]]


def _default(field: dataclasses.Field[Any]) -> str:
    if field.default is dataclasses.MISSING:
        return "required"
    return "not set" if field.default is None else f"`{field.default}`"


if __name__ == "__main__":
    for name, text in render().items():
        (HERE / name).write_text(text)
