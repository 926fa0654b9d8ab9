from pathlib import Path

import pytest
from trimtab_stack import doctor


def test_this_machine_is_well(tmp_path: Path) -> None:
    found = {check.name: check for check in doctor.checks(tmp_path / "not" / "yet" / "there")}

    assert list(found) == ["Python", "Java", "Maven", "PostgreSQL", "Kafka", "Disk"]
    assert all(check.ok for check in found.values())


def test_what_is_missing_comes_with_a_remedy(tmp_path: Path) -> None:
    bare = {"PATH": str(tmp_path), "TRIMTAB_CACHE": str(tmp_path), "JAVA_HOME": "", "KAFKA_HOME": ""}

    faults = {check.name: check.remedy for check in doctor.checks(tmp_path, bare) if not check.ok}

    assert set(faults) == {"Java", "Maven", "Kafka"}
    assert "install one or set JAVA_HOME" in faults["Java"]
    assert "`apt-get install openjdk-17-jre-headless` or `dnf install" in faults["Java"]
    assert "`brew install maven`" in faults["Maven"]
    assert all(remedy.endswith(".") for remedy in faults.values())


@pytest.mark.parametrize("jar", ["kafka_2.13-4.3.1.jar", "other.jar"])
def test_maven_is_not_needed_where_kafka_is(tmp_path: Path, jar: str) -> None:
    (tmp_path / "libs").mkdir()
    (tmp_path / "libs" / jar).touch()

    found = {
        check.name: check.ok for check in doctor.checks(tmp_path, {"PATH": "/", "KAFKA_HOME": str(tmp_path)})
    }

    assert found["Kafka"] is found["Maven"] is jar.startswith("kafka")


def test_the_way_to_get_it_is_this_machines_own(tmp_path: Path) -> None:
    (tmp_path / "dnf").touch(mode=0o755)

    faults = {check.name: check.remedy for check in doctor.checks(tmp_path, {"PATH": str(tmp_path)})}

    assert "(`dnf install java-17-openjdk-headless`)" in faults["Java"]
