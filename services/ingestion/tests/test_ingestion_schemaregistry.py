"""What is asked of a schema registry, and which of its answers are an outage."""

import asyncio
import json
from collections.abc import Callable
from typing import Any

import httpx
import pytest
from trimtab_formats.errors import BadSchema
from trimtab_ingestion import schemaregistry
from trimtab_ingestion.errors import BadRegistryAddress
from trimtab_ingestion.schemaregistry import SchemaRegistry, open_registry
from trimtab_runtime.errors import Unavailable

Answer = Callable[[httpx.Request], httpx.Response]


def registry(answer: Answer) -> SchemaRegistry:
    """A registry that answers so."""
    transport = httpx.MockTransport(answer)
    return SchemaRegistry(httpx.AsyncClient(transport=transport, base_url="http://schemas.test/api"))


def always(status: int, body: Any) -> Answer:
    text = body if isinstance(body, str) else json.dumps(body)
    return lambda _: httpx.Response(status, text=text)


async def test_a_schema_comes_with_all_that_it_refers_to_what_is_needed_first() -> None:
    def reference(name: str) -> dict[str, Any]:
        return {"name": f"{name}.proto", "subject": f"sub/{name}", "version": 1}

    answers = {
        "/api/schemas/ids/7": {
            "schema": "top", "schemaType": "PROTOBUF", "references": [reference("b"), reference("a")],
        },
        "/api/subjects/sub%2Fb/versions/1": {"schema": "text b", "references": [reference("a")]},
        "/api/subjects/sub%2Fa/versions/1": {"schema": "text a"},
    }  # fmt: skip
    asked: list[str] = []

    def answer(request: httpx.Request) -> httpx.Response:
        path = request.url.raw_path.decode()
        asked.append(path)
        return httpx.Response(200, json=answers[path])

    found = await registry(answer).schema(7)

    assert found is not None and (found.type, found.text) == ("PROTOBUF", "top")
    assert [(each.name, each.text) for each in found.references] == [
        ("a.proto", "text a"),
        ("b.proto", "text b"),
    ]
    assert len(asked) == 3


async def test_a_schema_of_no_type_is_avro() -> None:
    found = await registry(always(200, {"schema": '"string"'})).schema(7)

    assert found is not None and found.type == "AVRO"


async def test_only_the_registrys_own_word_says_that_there_is_no_such_schema() -> None:
    assert await registry(always(404, {"error_code": 40403, "message": "Schema not found"})).schema(7) is None


async def test_a_reference_that_is_not_there_is_a_fault_of_the_schema() -> None:
    def answer(request: httpx.Request) -> httpx.Response:
        if "ids" in request.url.path:
            reference = {"name": "a.proto", "subject": "a", "version": 3}
            return httpx.Response(200, json={"schema": "top", "references": [reference]})
        return httpx.Response(404, json={"error_code": 40402})

    with pytest.raises(BadSchema, match=r"it refers to 'a.proto', which would be version 3 of 'a'"):
        await registry(answer).schema(7)


@pytest.mark.parametrize(
    "answer",
    [
        always(500, {"error_code": 50001}),
        always(503, "busy"),
        always(429, {}),
        always(401, {"error_code": 40101}),
        always(404, {"error_code": 404, "message": "HTTP 404 Not Found"}),
        always(404, {"error_code": 0}),
        always(404, "<html>no such page</html>"),
        always(302, ""),
        always(200, "<html>sign in</html>"),
        always(200, [1]),
        always(200, {"schema": None}),
    ],
)
async def test_any_other_answer_is_an_outage_that_names_the_setting(answer: Answer) -> None:
    with pytest.raises(
        Unavailable, match=r"answers \d+ to schemas/ids/7.*TRIMTAB_INGESTION_SCHEMA_REGISTRY_URL"
    ):
        await registry(answer).schema(7)


async def test_a_registry_that_does_not_answer_is_an_outage(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(request: httpx.Request) -> httpx.Response:
        raise httpx.ConnectError("refused")

    async def hang(request: httpx.Request) -> httpx.Response:
        await asyncio.Event().wait()
        raise AssertionError

    monkeypatch.setattr(schemaregistry, "_PATIENCE_S", 0.05)
    for answer in (refuse, hang):
        with pytest.raises(
            Unavailable, match=r"the schema registry at http://schemas\.test/api/ does not answer"
        ):
            await registry(answer).schema(7)  # type: ignore[arg-type]


async def test_a_password_is_sent_and_never_shown() -> None:
    asked = asyncio.get_running_loop().create_future()

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        asked.set_result(await reader.readuntil(b"\r\n\r\n"))
        writer.write(b"HTTP/1.1 503 Busy\r\ncontent-length: 0\r\n\r\n")
        writer.close()

    async with await asyncio.start_server(answer, "127.0.0.1") as server:
        port = server.sockets[0].getsockname()[1]
        async with open_registry(f"http://me:s%40cret@127.0.0.1:{port}/api") as opened:
            assert opened is not None
            with pytest.raises(Unavailable) as raised:
                await opened.schema(7)

    request = (await asked).lower()
    assert b"get /api/schemas/ids/7 http/1.1" in request
    assert b"authorization: basic bwu6c0bjcmv0" in request
    assert "me" not in str(raised.value).split() and "cret" not in str(raised.value)


@pytest.mark.parametrize(
    "address", ["schemas:8081", "ftp://host/", "http://", "http://me:secret@host:port/", ""]
)
async def test_what_is_no_address_is_refused_and_not_shown(address: str) -> None:
    with pytest.raises(BadRegistryAddress, match="is no address: write http://") as raised:
        async with open_registry(address):
            pass

    assert "secret" not in str(raised.value)


async def test_without_an_address_there_is_no_registry() -> None:
    async with open_registry(None) as opened:
        assert opened is None
