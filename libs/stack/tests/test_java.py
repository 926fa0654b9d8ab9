from pathlib import Path

import pytest
from trimtab_stack import java
from trimtab_stack.errors import MissingJava


def a_java(home: Path, says: str) -> dict[str, str]:
    command = home / "bin" / "java"
    command.parent.mkdir()
    command.write_text(f"#!/bin/sh\necho '{says}' >&2\n")
    command.chmod(0o755)
    return {"JAVA_HOME": str(home), "PATH": "/usr/bin:/bin"}


@pytest.mark.parametrize(
    ("version", "major"), [("17.0.15", 17), ("21", 21), ("25-ea", 25), ("1.8.0_392", 8), ("22.0.1+8", 22)]
)
def test_the_major_version_is_the_number_people_count_by(version: str, major: int) -> None:
    assert java.Java("java", version).major == major


def test_java_home_is_asked_first(tmp_path: Path) -> None:
    environ = a_java(tmp_path, 'openjdk version "21.0.2" 2024-01-16')

    assert java.find(environ) == java.Java(f"{tmp_path}/bin/java", "21.0.2")


def test_an_old_java_is_refused_with_what_it_is(tmp_path: Path) -> None:
    with pytest.raises(
        MissingJava, match=r"Java 17 or newer, and .*/bin/java is 11\.0\.1: install one or set JAVA_HOME"
    ):
        java.find(a_java(tmp_path, 'openjdk version "11.0.1" 2018-10-16'))


def test_no_java_at_all_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(MissingJava, match="there is no java on PATH"):
        java.find({"PATH": str(tmp_path)})


def test_a_java_home_without_java_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(MissingJava, match="does not run"):
        java.find({"JAVA_HOME": str(tmp_path)})
