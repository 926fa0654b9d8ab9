from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from trimtab_stack import jars
from trimtab_stack.errors import MissingJava, MissingKafka
from trimtab_stack.fetch import fetch_kafka

COUNTS_AND_FETCHES = """
echo once >> {home}/fetches
for argument; do case "$argument" in -DoutputDirectory=*) folder=${{argument#*=}};; esac; done
mkdir -p "$folder"
touch "$folder/kafka_2.13-4.3.1.jar"
"""


def a_machine(home: Path, maven: str | None) -> dict[str, str]:
    """An environment with an empty cache, and a Maven that does what the script says."""
    command = home / "bin" / "mvn"
    command.parent.mkdir()
    if maven is not None:
        command.write_text(f"#!/bin/sh\n{maven.format(home=home)}")
        command.chmod(0o755)
    path = f"{command.parent}:/usr/bin:/bin" if maven is not None else str(command.parent)
    return {"TRIMTAB_CACHE": str(home / "cache"), "PATH": path}


def test_kafka_is_fetched_once_however_many_want_it(tmp_path: Path) -> None:
    environ = a_machine(tmp_path, COUNTS_AND_FETCHES)

    with ThreadPoolExecutor(4) as threads:
        found = list(threads.map(jars.find_or_fetch, [environ] * 4))

    assert (tmp_path / "fetches").read_text() == "once\n"
    assert {each.folder for each in found} == {tmp_path / "cache" / "kafka-4.3.1" / "libs"}


def test_a_fetch_that_fails_half_way_leaves_nothing_and_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "cache" / ".fetching-kafka-4.3.1-and-killed").mkdir(parents=True)
    environ = a_machine(tmp_path, COUNTS_AND_FETCHES + 'echo "[ERROR] the network is down"\nexit 1\n')

    with pytest.raises(
        MissingKafka, match=r"^Maven could not fetch Kafka 4\.3\.1 \(\[ERROR\] the network is down\): see"
    ):
        jars.find_or_fetch(environ)

    assert jars.find(environ) is None
    assert [left.name for left in (tmp_path / "cache").iterdir()] == ["kafka-4.3.1.lock"]


def test_without_maven_the_remedy_is_named(tmp_path: Path) -> None:
    with pytest.raises(MissingKafka, match=r"there is no mvn to fetch it: install Maven, or set KAFKA_HOME$"):
        jars.find_or_fetch(a_machine(tmp_path, None))


def test_without_java_nothing_is_fetched_and_java_is_what_is_missing(tmp_path: Path) -> None:
    environ = a_machine(tmp_path, COUNTS_AND_FETCHES) | {"JAVA_HOME": str(tmp_path)}

    with pytest.raises(MissingJava, match="Kafka needs Java 17 or newer"):
        fetch_kafka(environ)

    assert not (tmp_path / "fetches").exists()


def test_kafka_home_comes_first_and_its_version_is_that_of_its_jar(tmp_path: Path) -> None:
    (tmp_path / "libs").mkdir()
    (tmp_path / "libs" / "kafka_2.13-4.9.0.jar").touch()

    found = jars.find({"KAFKA_HOME": str(tmp_path)})

    assert found == jars.Jars(tmp_path / "libs", "4.9.0", cached=False)
    assert found.archive("17.0.1") is None


def test_a_kafka_home_without_kafka_is_refused(tmp_path: Path) -> None:
    with pytest.raises(MissingKafka, match=r"KAFKA_HOME is .*, which holds no libs/kafka_\*\.jar"):
        jars.find({"KAFKA_HOME": str(tmp_path)})
