"""Artifacts in a folder, in memory, and in a bucket of a server that speaks S3 over real HTTP."""

import hashlib
import os
import socket
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from trimtab_contracts.common.v1.common_pb2 import Artifact
from trimtab_runtime import artifacts
from trimtab_runtime.artifacts import BadPlace, Corrupt, Gone
from trimtab_runtime.clock import SystemClock
from trimtab_runtime.errors import Unavailable

HOUR_MS = 3_600_000
MODEL = b"a model" * 50_000


class Wire:
    """Stands between a client and a server, and cuts a connection once `after` bytes of answers have gone by."""

    def __init__(self, server: tuple[str, int]) -> None:
        self.after: int | None = None
        self._server = server
        self._door = socket.create_server(("127.0.0.1", 0))
        self.port = self._door.getsockname()[1]
        self._ends: list[socket.socket] = []
        self._threads: list[threading.Thread] = []
        self._start(self._listen)

    def close(self) -> None:
        for end in (self._door, *self._ends):
            _shut(end)
        for thread in self._threads:
            thread.join(30)
        for end in (self._door, *self._ends):
            end.close()

    def cut(self, after: int | None) -> None:
        """Cut what is connected now, and from here on each after so many bytes."""
        self.after = after
        for end in self._ends:
            _shut(end)

    def _start(self, target: Any, *args: Any) -> None:
        self._threads.append(threading.Thread(target=target, args=args))
        self._threads[-1].start()

    def _listen(self) -> None:
        while True:
            try:
                client, _ = self._door.accept()
            except OSError:
                return
            server = socket.create_connection(self._server)
            self._ends += [client, server]
            self._start(_pour, client, server, None)
            self._start(_pour, server, client, self.after)


def _pour(source: socket.socket, target: socket.socket, most: int | None) -> None:
    """Carry bytes until one end goes, or `most` have gone by; then nothing more goes either way."""
    try:
        while (most is None or most > 0) and (piece := source.recv(65_536)):
            target.sendall(piece if most is None else piece[:most])
            most = None if most is None else most - len(piece)
    except OSError:
        pass
    _shut(source)
    _shut(target)


def _shut(end: socket.socket) -> None:
    try:
        end.shutdown(socket.SHUT_RDWR)
    except OSError:
        return


@pytest.fixture(scope="module")
def s3_server() -> Iterator[tuple[str, int]]:
    import boto3
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    keys = {"aws_access_key_id": "key", "aws_secret_access_key": "secret", "region_name": "us-east-1"}
    client = boto3.client("s3", endpoint_url=f"http://{host}:{port}", **keys)
    client.create_bucket(Bucket="models")
    client.close()
    yield host, port
    server.stop()


@pytest.fixture
def s3(s3_server: tuple[str, int], monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    import s3fs

    wire = Wire(s3_server)
    variables = {
        "AWS_ENDPOINT_URL": f"http://127.0.0.1:{wire.port}",
        "AWS_ACCESS_KEY_ID": "key",
        "AWS_SECRET_ACCESS_KEY": "secret",
        "AWS_DEFAULT_REGION": "us-east-1",
        "NO_PROXY": "127.0.0.1",
    }
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(
        s3fs.S3FileSystem, "retries", 2
    )  # tried no longer than it takes to see that it is tried
    s3fs.S3FileSystem.clear_instance_cache()
    yield SimpleNamespace(home="s3://models/trimtab", wire=wire)
    s3fs.S3FileSystem.clear_instance_cache()
    wire.close()


@pytest.fixture(params=["folder", "memory", "s3"])
def home(request: pytest.FixtureRequest, tmp_path: Path) -> str | Path:
    if request.param == "s3":
        return str(request.getfixturevalue("s3").home)
    return tmp_path if request.param == "folder" else f"memory://{tmp_path.name}"


def overwrite(uri: str, content: bytes) -> None:
    import fsspec

    with fsspec.open(uri, "wb") as file:
        file.write(content)


def test_what_is_stored_is_read_back_by_its_digest(home: str | Path) -> None:
    stored = artifacts.put(home, MODEL)
    assert (stored.digest, stored.size) == (hashlib.sha256(MODEL).hexdigest(), len(MODEL))
    assert artifacts.fetch(stored) == MODEL
    assert artifacts.put(home, MODEL) == stored


def test_an_artifact_that_rotted_is_an_error_and_not_an_answer_until_it_is_stored_again(
    home: str | Path,
) -> None:
    stored = artifacts.put(home, MODEL)
    overwrite(stored.uri, b"another")
    with pytest.raises(Corrupt, match="restore it"):
        artifacts.fetch(stored)
    artifacts.put(home, MODEL)
    assert artifacts.fetch(stored) == MODEL


def test_a_missing_artifact_is_one_sentence_with_a_remedy(home: str | Path) -> None:
    stored = artifacts.put(home, MODEL)
    missing = Artifact(uri=stored.uri[:-3] + "000", digest=stored.digest, size=stored.size)
    with pytest.raises(Gone, match="is not there: restore it from a backup, or train again"):
        artifacts.fetch(missing)


def test_an_old_file_is_thrown_away_and_one_that_was_stored_again_stays(home: str | Path) -> None:
    stored, now = artifacts.put(home, MODEL), SystemClock().now_ms()
    assert artifacts.remove(stored.uri, older_than_ms=now - HOUR_MS) == "newer"
    assert artifacts.fetch(stored) == MODEL
    assert artifacts.remove(stored.uri, older_than_ms=now + HOUR_MS) == "removed"
    with pytest.raises(Gone):
        artifacts.fetch(stored)
    assert artifacts.remove(stored.uri, older_than_ms=now + HOUR_MS) == "gone"


def test_many_may_store_one_content_at_once(home: str | Path) -> None:
    def store(_: int) -> str:
        for _ in range(20):
            try:
                return artifacts.put(home, MODEL).uri
            except Unavailable:  # moto answers 500 where PUTs of one key cross
                continue
        raise AssertionError("it was never stored")

    with ThreadPoolExecutor(4) as pool:
        names = set(pool.map(store, range(12)))
    [uri] = names
    assert artifacts.fetch(artifacts.put(home, MODEL)) == MODEL
    if isinstance(home, Path):
        assert [path.name for path in Path(uri).parent.iterdir()] == [Path(uri).name], "nothing is left over"


def test_what_is_stored_while_it_is_thrown_away_is_there_afterwards(tmp_path: Path) -> None:
    began, old = SystemClock().now_ms() - HOUR_MS, 1.0
    stored, ended = artifacts.put(tmp_path, MODEL), threading.Event()

    def throw_away() -> None:
        while not ended.is_set():
            artifacts.remove(stored.uri, older_than_ms=began)

    throwing = threading.Thread(target=throw_away)
    throwing.start()
    try:
        for _ in range(25):
            os.utime(Path(artifacts.put(tmp_path, MODEL).uri), (old, old))
            artifacts.put(tmp_path, MODEL)
    except FileNotFoundError:
        pytest.fail("what was new was thrown away")
    finally:
        ended.set()
        throwing.join()
    assert artifacts.fetch(stored) == MODEL


@pytest.mark.parametrize("after", [0, 20, 200_000], ids=["before", "in the head", "in the body"])
def test_a_bucket_whose_connection_is_cut_is_away_and_nothing_is_wrong_with_the_artifact(
    s3: Any, after: int
) -> None:
    stored = artifacts.put(s3.home, MODEL)
    s3.wire.cut(after)
    with pytest.raises(Unavailable, match="cannot be read"):
        artifacts.fetch(stored)
    if after < 200_000:  # the answer to a PUT is shorter
        with pytest.raises(Unavailable, match="cannot be stored"):
            artifacts.put(s3.home, b"more")
    s3.wire.cut(None)
    assert artifacts.fetch(stored) == MODEL


def test_a_bucket_that_is_not_there_is_said_so_and_waited_for(s3: Any) -> None:
    with pytest.raises(Unavailable, match=r"nobodys.* there is no such bucket: make it"):
        artifacts.put("s3://nobodys/trimtab", MODEL)


@pytest.mark.parametrize("url", ["ftp://somewhere/x", "s3://", "s3:///"])
def test_a_place_where_no_artifacts_can_be_kept_is_refused_as_the_service_starts(url: str) -> None:
    with pytest.raises(BadPlace, match=r"TRIMTAB_ARTIFACTS_URL is .*: write a folder or s3://bucket/prefix"):
        artifacts.home(url, Path("data"))


def test_artifacts_are_kept_where_the_setting_says_and_in_the_data_folder_without_it(tmp_path: Path) -> None:
    assert artifacts.home("", tmp_path) == tmp_path
    assert artifacts.home(str(tmp_path / "other"), tmp_path) == tmp_path / "other"
    assert artifacts.home("memory://m/", tmp_path) == "memory://m"
