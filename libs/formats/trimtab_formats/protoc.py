"""Protobuf's own compiler, in a process of its own: what it is given comes from users.

A file is .proto text, or its descriptor in base64: so some clients register it. Each
schema has a pool of descriptors to itself, so that two that define the same name never
meet.
"""

import base64
import re
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from importlib.resources import files
from pathlib import Path

from google.protobuf.descriptor_pb2 import FileDescriptorProto, FileDescriptorSet
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.message import DecodeError

from trimtab_formats.errors import BadSchema

_NAME = "the-schema-itself.proto"
_PATH = re.compile(r"(?!.*\.\.)[A-Za-z0-9_][A-Za-z0-9_./-]{0,200}")
_ERROR = re.compile(r"[\w./-]+\.proto:(?!.* warning: )")
_PATIENCE_S = 60.0


class ProtoFile:
    """A compiled file, with all that it imports."""

    def __init__(self, described: FileDescriptorSet) -> None:
        self.pool = DescriptorPool()
        try:
            for each in described.file:
                self.pool.AddSerializedFile(each.SerializeToString())
        except TypeError as error:
            raise BadSchema(f"the compiler took it, and Protobuf's library does not: {error}") from error
        (self.proto,) = (each for each in described.file if each.name == _NAME)


def compile_files(imports: Mapping[str, str], text: str) -> ProtoFile:
    """Return the file in `text`, compiled; `imports` are the files that it and each other import, by path.

    Raises:
        BadSchema: the compiler refuses it, or one of them.
        OSError: the compiler could not be run.
    """
    with tempfile.TemporaryDirectory(prefix="trimtab-protoc-") as folder:
        described = FileDescriptorSet()
        for name, content in {**imports, _NAME: text}.items():
            if not _PATH.fullmatch(name):
                raise BadSchema(f"it imports {name[:200]!r}, which is no path below its own")
            if (descriptor := _descriptor(content)) is not None:
                descriptor.name = name
                described.file.append(descriptor)
                continue
            file = Path(folder, name)
            try:
                file.parent.mkdir(parents=True, exist_ok=True)
                file.write_bytes(content.encode(errors="replace"))
            except (FileExistsError, IsADirectoryError, NotADirectoryError) as error:
                raise BadSchema(f"it imports {name!r}, and another import by a path within it") from error
        return ProtoFile(_run(folder, described))


def _descriptor(content: str) -> FileDescriptorProto | None:
    """Return the descriptor that a file is; None if it is text."""
    try:
        return FileDescriptorProto.FromString(base64.b64decode(content, validate=True))
    except (ValueError, DecodeError):
        return None


def _run(folder: str, described: FileDescriptorSet) -> FileDescriptorSet:
    """Compile the schema in a folder, together with the files that are described."""
    given, made = Path(folder, "given.binpb"), Path(folder, "made.binpb")
    given.write_bytes(described.SerializeToString())
    command = [
        *(sys.executable, "-I", "-m", "grpc_tools.protoc", f"--descriptor_set_in={given}", f"-I{folder}"),
        *(f"-I{files('grpc_tools') / '_proto'}", "--include_imports", f"--descriptor_set_out={made}", _NAME),
    ]
    try:
        run = subprocess.run(
            command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=_PATIENCE_S
        )
    except subprocess.TimeoutExpired as error:
        raise BadSchema(f"the compiler has not done with it after {_PATIENCE_S:g} s") from error
    if run.returncode != 0:
        raise BadSchema(_said(run.stderr, folder) or f"the compiler ended with status {run.returncode}")
    return FileDescriptorSet.FromString(made.read_bytes())


def _said(complaint: str, folder: str) -> str:
    """Return the errors that the compiler tells, on one line, of files that have no place."""
    lines = complaint.replace(f"{folder}/", "").splitlines()
    errors = [line for line in lines if _ERROR.match(line)]
    return "; ".join(line.replace(f"{_NAME}:", "line ", 1).strip() for line in errors)
