"""A trainer's wheel beside a spec: named by what is in it, sent before the spec is applied, and told of where it is missing."""

import hashlib
import zipfile
from pathlib import Path
from typing import Any

import pytest
from trimtab import project
from trimtab.client import Trimtab
from trimtab.project import BadProject
from trimtab_contracts.registry.v1.registry_pb2 import ApplyResponse
from trimtab_contracts.training.v1.training_pb2 import UploadResponse
from trimtab_core.specs import Model

SPEC = """
kind: Model
metadata: {name: m}
spec:
  task: binary
  source: s
  features: [request.x]
  label: {source: s, on: id, value: y, within: 1h}
  trainer:
    kind: own
    window: 1d
    wheel: dist/mine-1.0-py3-none-any.whl
    lock: requirements.lock
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "dist").mkdir()
    with zipfile.ZipFile(tmp_path / "dist/mine-1.0-py3-none-any.whl", "w") as file:
        file.writestr("mine-1.0.dist-info/WHEEL", "Wheel-Version: 1.0\n")
    (tmp_path / "requirements.lock").write_text("numpy==2.4.0 --hash=sha256:1\n")
    (tmp_path / "model.yaml").write_text(SPEC)
    return tmp_path


def test_files_are_named_by_what_is_in_them(folder: Path) -> None:
    loaded = project.load(folder / "model.yaml")

    [model] = loaded.resources
    assert isinstance(model, Model)
    digest = hashlib.sha256((folder / "requirements.lock").read_bytes()).hexdigest()
    assert model.spec.trainer.lock == f"requirements.lock@sha256:{digest}"
    assert [file.name for file in loaded.files] == ["mine-1.0-py3-none-any.whl", "requirements.lock"]


@pytest.mark.parametrize(
    ("path", "content", "said"),
    [
        ("dist/mine-1.0-py3-none-any.whl", None, "cannot be read (No such file or directory): name another file; build it, with"),
        ("dist/mine-1.0-py3-none-any.whl", b"rubbish", "is no wheel: build one, with `python -m build --wheel`"),
        ("requirements.lock", b"", "requirements.lock is empty: name another file"),
    ],
)  # fmt: skip
def test_a_file_that_cannot_be_sent_is_told_with_its_line(
    folder: Path, path: str, content: bytes | None, said: str
) -> None:
    (folder / path).unlink() if content is None else (folder / path).write_bytes(content)
    with pytest.raises(BadProject) as raised:
        project.load(folder)

    [fault] = raised.value.places
    assert fault.key == ("spec.trainer.lock" if path.endswith(".lock") else "spec.trainer.wheel")
    assert fault.line == (13 if path.endswith(".lock") else 12)
    assert said in fault.sentence


@pytest.mark.parametrize(
    ("trainer", "key", "said"),
    [
        (
            "{kind: own, window: 1d}",
            "kind",
            "'own' stands without entry_point and wheel: say where your trainer is",
        ),
        ("{kind: linear, window: 1d, wheel: a.whl}", "wheel", "'a.whl' is for kind: own, and this is linear"),
        ("{kind: own, window: 1d, wheel: a.tar.gz}", "wheel", "'a.tar.gz' is no wheel: build one"),
        ("{kind: own, window: 1d, entry_point: 'a:B', lock: l}", "lock", "'l' stands without a wheel"),
    ],
)
def test_what_does_not_go_together_is_told(trainer: str, key: str, said: str) -> None:
    with pytest.raises(BadProject) as raised:
        project.parse(SPEC[: SPEC.index("  trainer:")] + f"  trainer: {trainer}\n")

    [fault] = raised.value.places
    assert fault.key == f"spec.trainer.{key}"
    assert said in fault.sentence


class Doors:
    """The trainer's door and the registry's, which write down what is asked."""

    def __init__(self) -> None:
        self.asked: list[str] = []

    async def Upload(self, parts: Any, **_: Any) -> UploadResponse:
        [first, *rest] = [part async for part in parts]
        assert sum(len(part.content) for part in rest) == first.file.size
        self.asked.append(first.file.name)
        return UploadResponse()

    async def Apply(self, request: Any, **_: Any) -> ApplyResponse:
        self.asked.append("applied")
        return ApplyResponse()


@pytest.mark.parametrize("only", [True, False])
async def test_files_are_sent_before_the_spec_and_never_to_look_only(folder: Path, only: bool) -> None:
    trimtab = Trimtab.__new__(Trimtab)
    doors: Any = Doors()
    trimtab._trainer = trimtab._registry = doors
    loaded = project.load(folder)

    await trimtab.apply(loaded.resources, actor="me", files=loaded.files, validate_only=only)

    assert (
        doors.asked == ["applied"] if only else ["mine-1.0-py3-none-any.whl", "requirements.lock", "applied"]
    )
