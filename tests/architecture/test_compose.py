"""docker-compose.yml, the Dockerfile and what the services ask of their environment agree; no engine is needed."""

import dataclasses
import importlib
import re
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parents[2]
DOCKERFILE = (ROOT / "infra/docker/Dockerfile").read_text()
COMPOSE: dict[str, Any] = yaml.safe_load((ROOT / "docker-compose.yml").read_text())
BUILT = {name: service for name, service in COMPOSE["services"].items() if "build" in service}
SERVICES = {
    service["build"]["args"]["SERVICE"]: name for name, service in BUILT.items() if "command" not in service
}


def test_the_six_services_run_and_no_other() -> None:
    assert set(SERVICES) == {path.parent.name for path in (ROOT / "services").glob("*/pyproject.toml")}


@pytest.mark.parametrize("name", BUILT)
def test_an_image_is_built_from_a_service_that_exists(name: str) -> None:
    build = BUILT[name]["build"]

    assert (ROOT / build["context"] / build["dockerfile"]).is_file()
    service = build["args"]["SERVICE"]
    project = tomllib.loads((ROOT / "services" / service / "pyproject.toml").read_text())["project"]
    assert BUILT[name]["image"] == f"{project['name']}:{project['version']}"


@pytest.mark.parametrize("service", SERVICES)
def test_a_service_is_told_all_that_it_must_know_and_nothing_that_it_does_not(service: str) -> None:
    config = importlib.import_module(f"trimtab_{service}.config").Config
    fields = dataclasses.fields(config)
    required = {
        field.name for field in fields if field.default is field.default_factory is dataclasses.MISSING
    }
    given = {
        name.removeprefix("TRIMTAB_").lower()
        for name in COMPOSE["services"][SERVICES[service]]["environment"]
    }
    by_the_image = {name.lower() for name in re.findall(r"\bTRIMTAB_(\w+)=", DOCKERFILE)}

    assert required <= given | by_the_image
    assert given <= {field.name for field in fields}


@pytest.mark.parametrize("name", COMPOSE["services"])
def test_what_is_waited_for_exists_and_can_say_that_it_is_there(name: str) -> None:
    for needed, how in COMPOSE["services"][name].get("depends_on", {}).items():
        on = COMPOSE["services"][needed]
        if how["condition"] == "service_completed_successfully":
            assert "restart" not in on
        else:
            assert how["condition"] == "service_healthy" and "test" in on["healthcheck"]


@pytest.mark.parametrize("name", COMPOSE["services"])
def test_all_that_keeps_running_has_a_health_check(name: str) -> None:
    service = COMPOSE["services"][name]
    if "restart" in service:
        own, of_the_image = (
            "test" in service.get("healthcheck", {}),
            name in BUILT and "HEALTHCHECK" in DOCKERFILE,
        )
        assert own or of_the_image


def test_no_two_listen_on_one_port_and_none_beyond_this_machine() -> None:
    ports = [port.split(":") for service in COMPOSE["services"].values() for port in service.get("ports", ())]

    assert {host for host, *_ in ports} == {"127.0.0.1"}
    assert len({outside for _, outside, _ in ports}) == len(ports)


def test_a_client_on_this_machine_finds_every_service_at_its_port() -> None:
    lines = (ROOT / "infra/docker/client.env").read_text().splitlines()
    found = dict(line.split("=") for line in lines if not line.startswith("#"))

    for service, name in SERVICES.items():
        (port,) = COMPOSE["services"][name]["ports"]
        assert found.pop(f"TRIMTAB_{service.upper()}_ADDRESS") == port.rpartition(":")[0]
    assert found == {"TRIMTAB_KAFKA_SERVERS": COMPOSE["services"]["kafka"]["ports"][0].rpartition(":")[0]}


def test_every_volume_is_declared_and_used() -> None:
    used = {
        volume.split(":")[0]
        for service in COMPOSE["services"].values()
        for volume in service.get("volumes", ())
    }

    assert used == set(COMPOSE["volumes"])


def test_what_one_service_writes_for_others_lies_where_all_see_it() -> None:
    for name in SERVICES.values():
        assert {"data:/data", f"{name}:/state"} == set(COMPOSE["services"][name]["volumes"])


def test_images_are_pinned_by_a_tag() -> None:
    bases = re.findall(r"^FROM (\S+)", DOCKERFILE, re.MULTILINE)
    for image in [*bases, *(service["image"] for service in COMPOSE["services"].values())]:
        assert re.fullmatch(r"[a-z/-]+:\d[\w.-]*", image), image


def test_a_container_does_not_run_as_root() -> None:
    final = DOCKERFILE[DOCKERFILE.rindex("FROM ") :]
    (user,) = re.findall(r"^USER (\w+)", final, re.MULTILINE)

    assert f"useradd --system --uid 10001 --no-create-home --home-dir /state {user}" in final


def test_an_image_holds_what_was_copied_into_it() -> None:
    let_in = [line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")]
    for sources in re.findall(r"^COPY (?!--from)(.+) \S+$", DOCKERFILE, re.MULTILINE):
        for source in sources.replace("${SERVICE}", "registry").split():
            assert (ROOT / source).exists() and any(Path(source).is_relative_to(path) for path in let_in), (
                source
            )
