"""Finds a running Trimtab: by the environment's variables, or else the stack that keeps its data in a folder."""

import os
from collections.abc import Mapping
from pathlib import Path

import grpc
from trimtab_runtime import rpc
from trimtab_runtime.errors import Rejected, Unavailable
from trimtab_stack import supervisor

SERVICES = ("registry", "feature_store", "serving", "trainer", "monitoring", "ingestion")
"""Those that the client speaks to."""
HOME = Path(".trimtab")
"""Where a stack keeps its data, unless another folder is named."""


def given() -> dict[str, str]:
    """Return the environment's variables that are Trimtab's."""
    return {name: value for name, value in os.environ.items() if name.startswith("TRIMTAB_")}  # noqa: TID251 - the client's door to the environment


def home() -> Path:
    """Return the folder that TRIMTAB_DIR names, or else `HOME`."""
    return Path(given().get("TRIMTAB_DIR", HOME))


def environ(directory: Path) -> dict[str, str]:
    """Return what finds a running Trimtab: the environment's variables, or else the stack's in `directory`.

    Raises:
        Unavailable: neither says where it is.
    """
    variables = given()
    if "TRIMTAB_REGISTRY_ADDRESS" in variables:
        return variables
    state = supervisor.status(directory)
    if state is None or not state.running:
        raise Unavailable(f"no Trimtab runs in {directory}: start one with `trimtab up`")
    return {**state.environ, **variables}


def addresses(variables: Mapping[str, str]) -> dict[str, str]:
    """Return the address of each service that the client speaks to.

    Raises:
        Rejected: some are not there.
    """
    names = {service: f"TRIMTAB_{service.upper()}_ADDRESS" for service in SERVICES}
    return dict(zip(names, wanted(variables, *names.values()), strict=True))


def wanted(variables: Mapping[str, str], *names: str) -> list[str]:
    """Return the values of `names`.

    Raises:
        Rejected: some are not set; it names them all.
    """
    if missing := [name for name in names if not variables.get(name)]:
        raise Rejected(f"{', '.join(missing)} not set: set it, or none of them to use the stack in --dir")
    return [variables[name] for name in names]


def channel(service: str, given_addresses: str | None) -> grpc.Channel:
    """Open a channel to a service for code without an event loop, at the addresses that are given or else where it is found.

    Raises:
        Unavailable: none are given, and none is found.
    """
    return rpc.blocking_channel(
        addresses(environ(home()))[service] if given_addresses is None else given_addresses
    )
