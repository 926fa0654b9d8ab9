"""Both clients against a real server of the protocol, which answers with what it was asked."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from concurrent import futures
from typing import Any

import grpc
import numpy as np
import pytest
from trimtab.client import SERVICES, Trimtab
from trimtab.predicting import Predictor, Rows
from trimtab_contracts.serving.v1 import serving_pb2 as serving
from trimtab_contracts.serving.v1.serving_pb2_grpc import PredictionServicer, add_PredictionServicer_to_server
from trimtab_runtime.errors import Conflict, NotFound, Overloaded, Rejected, Unavailable


class Servicer(PredictionServicer):
    """Predicts how many bytes a row has; refuses the model `nobody`, and ends the stream that asks `full` anything."""

    def Predict(self, request: serving.PredictRequest, context: Any) -> serving.PredictResponse:
        if request.model == "nobody":
            context.abort(grpc.StatusCode.NOT_FOUND, "there is no model 'nobody'")
        sizes = [float(len(row)) for row in request.rows]
        return serving.PredictResponse(predictions=sizes, versions=[request.version] * len(sizes))

    def PredictStream(self, requests: Any, context: Any) -> Iterator[serving.PredictStreamResponse]:
        for request in requests:
            if request.model == "full":
                context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, "too many streams")
            if request.rows:
                yield serving.PredictStreamResponse(answer=self.Predict(request, context))
            else:
                failure = serving.PredictStreamResponse.Failure(code=9, message="no rows")
                yield serving.PredictStreamResponse(failure=failure)

    def Explain(self, request: serving.ExplainRequest, context: Any) -> serving.ExplainResponse:
        return serving.ExplainResponse(version=request.samples)

    def Score(self, request: serving.ScoreRequest, context: Any) -> serving.ScoreResponse:
        values = np.array(request.values).reshape(-1, len(request.features))
        return serving.ScoreResponse(predictions=values.sum(axis=1))


@pytest.fixture
def address() -> Iterator[str]:
    server = grpc.server(futures.ThreadPoolExecutor(4))
    add_PredictionServicer_to_server(Servicer(), server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    yield f"127.0.0.1:{port}"
    server.stop(0).wait()


@pytest.fixture
def predictor(address: str) -> Iterator[Predictor]:
    with Predictor.connect(address) as made:
        yield made


@pytest.fixture
async def trimtab(address: str) -> AsyncIterator[Trimtab]:
    async with Trimtab.connect(dict.fromkeys(SERVICES, address)) as made:
        yield made


BATCHES: list[Rows] = [[{"a": 1}], [], [b'{"a":1234}', {"a": 22}]]


def told(found: Any) -> list[Any]:
    return [list(each.predictions) if isinstance(each, serving.PredictResponse) else each for each in found]


def test_without_an_event_loop_all_of_serving_can_be_asked(predictor: Predictor) -> None:
    rows = np.arange(6, dtype=np.float32).reshape(3, 2)

    answer = predictor.predict("m", [{"a": 1}, b"{}"], version=4)
    streamed = told(predictor.predict_stream("m", BATCHES))

    assert (list(answer.predictions), list(answer.versions)) == ([7, 2], [4, 4])
    assert [streamed[0], streamed[2]] == [[7], [10, 8]]
    assert isinstance(streamed[1], Conflict)
    assert str(streamed[1]) == "no rows"
    assert predictor.explain("m", [{}], samples=9).version == 9
    assert predictor.score("m", ["a", "b"], rows).tolist() == [1, 5, 9]
    assert predictor.score("m", ["a", "b"], rows[:0]).tolist() == []


async def test_on_an_event_loop_it_is_the_same(trimtab: Trimtab) -> None:
    async def batches() -> AsyncIterator[Rows]:
        for rows in BATCHES:
            yield rows

    answer = await trimtab.predict("m", [{"a": 1}, b"{}"], version=4)
    streamed = told([each async for each in trimtab.predict_stream("m", batches())])

    assert (list(answer.predictions), list(answer.versions)) == ([7, 2], [4, 4])
    assert [streamed[0], streamed[2]] == [[7], [10, 8]]
    assert isinstance(streamed[1], Conflict)
    assert (await trimtab.explain("m", [{}], samples=9)).version == 9
    assert (await trimtab.score("m", ["a"], np.ones((2, 1), np.float32))).tolist() == [1, 1]


async def test_a_stream_that_is_ended_while_it_sends_may_be_asked_again(trimtab: Trimtab) -> None:
    async def batches() -> AsyncIterator[Rows]:
        for _ in range(100):
            yield [{"a": 1}]

    async def ask() -> (
        None
    ):  # gRPC tells what it sees first: what the other side said, or that it takes no more
        with pytest.raises((Overloaded, Unavailable)):
            await anext(trimtab.predict_stream("full", batches()))

    await asyncio.gather(*[ask() for _ in range(20)])  # each waits long before it asks again


def test_a_refusal_is_raised_as_what_it_is(predictor: Predictor) -> None:
    with pytest.raises(NotFound, match="there is no model 'nobody'"):
        predictor.predict("nobody", [{}])
    with pytest.raises(Rejected):
        list(predictor.predict_stream("nobody", [[{}]]))


def test_a_server_that_is_away_is_named() -> None:
    with Predictor.connect("127.0.0.1:9") as predictor:
        with pytest.raises(Unavailable, match="serving cannot answer"):
            predictor.predict("m", [{}], timeout=5)
        with pytest.raises(Unavailable, match="serving cannot answer"):
            list(predictor.predict_stream("m", [[{}]], timeout=5))
