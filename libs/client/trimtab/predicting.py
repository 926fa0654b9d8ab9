"""Asking serving for predictions and their reasons: as a part of `Trimtab`, and for code without an event loop.

    with Predictor.connect("serving:50051") as predictor:
        answer = predictor.predict("trip-minutes", [{"trip_id": "1", ...}])

Both go to each of several addresses in turn, be they one name's or given. What meets a dying instance is asked of
another, and what meets a full one again when that says, within the call's time-out:
no prediction changes anything, so that is safe. An open stream is bound to its instance.
"""

from collections.abc import AsyncIterable, AsyncIterator, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Self

import grpc
import msgspec
import numpy as np
from numpy.typing import NDArray
from trimtab_contracts.serving.v1 import serving_pb2 as serving
from trimtab_contracts.serving.v1.serving_pb2_grpc import PredictionStub
from trimtab_runtime import rpc, telemetry
from trimtab_runtime.errors import TrimtabError

from trimtab import finding
from trimtab.calling import failure

Rows = Sequence[Mapping[str, Any] | bytes]
"""Of a model's source: objects, or JSON as it is."""
Given = Mapping[str, NDArray[np.float64]]
"""Features of views [rows] by name."""
_ANSWER_S = 15.0
_MOST_VALUES = 250_000
"""Of one request of `score`: 1 MB."""


class Predicting:
    """A part of `Trimtab`; what it asks of serving."""

    _serving: Any

    async def predict(
        self, model: str, rows: Rows, *, version: int = 0, given: Given | None = None, timeout: float = 10.0
    ) -> serving.PredictResponse:
        """Return predictions for `rows` of the model's source; `version` pins one of the warm versions.

        Of a pinned version all the features of views may be `given`, [rows] by name, such as `join_features` returns.
        """
        answer: serving.PredictResponse = await self._serving.Predict(
            _asked(model, rows, version, given), timeout=timeout
        )
        return answer

    async def predict_stream(
        self, model: str, batches: AsyncIterable[Rows], *, version: int = 0, timeout: float | None = None
    ) -> AsyncIterator[serving.PredictResponse | TrimtabError]:
        """Yield the answer to each of `batches` in order, or the error of one that failed; the next are answered all the same.

        No more is taken of `batches` than is on its way.

        Raises:
            Unavailable: the stream broke; what was not answered may be asked again.
        """

        async def requests() -> AsyncIterator[serving.PredictRequest]:
            async for rows in batches:
                yield _asked(model, rows, version)

        async for part in self._serving.stream("PredictStream", requests(), timeout=timeout):
            yield _outcome(part)

    async def explain(
        self, model: str, rows: Rows, *, version: int = 0, samples: int = 0, timeout: float = 30.0
    ) -> serving.ExplainResponse:
        """Return what each feature contributes to the champion's, or `version`'s, predictions for `rows`.

        The contributions are Shapley values, found by sampling; more `samples` make their standard errors smaller.
        """
        answer: serving.ExplainResponse = await self._serving.Explain(
            _questioned(model, rows, version, samples), timeout=timeout
        )
        return answer

    async def score(
        self,
        model: str,
        features: Sequence[str],
        rows: NDArray[np.float32],
        *,
        version: int = 0,
        text_names: Sequence[str] = (),
        texts: NDArray[np.object_] | None = None,
    ) -> NDArray[np.float64]:
        """Return what the live version, or a warm one that is pinned, answers for rows [rows, features] of features.

        `texts` [rows, texts] are those of the features that are texts. The answers are predictions [rows], or the probabilities
        [rows, classes] of a multiclass task. Nothing of it is logged.
        """
        parts = _parts(model, features, rows, version, text_names, texts)
        return _joined([await self._serving.Score(part, timeout=_ANSWER_S) for part in parts])


class Predictor:
    """Asks serving without an event loop; any thread may, and several at once.

    Failures are `Rejected` (the request is wrong) or `Unavailable` (try again later).
    """

    def __init__(self, channel: grpc.Channel) -> None:
        self._stub: Any = PredictionStub(channel)

    @classmethod
    @contextmanager
    def connect(cls, addresses: str | None = None) -> Iterator[Self]:
        """Open a channel to serving: host:port, or several IP addresses with ports and commas between.

        Without them it is the Trimtab that the environment's variables name, or else the stack in TRIMTAB_DIR, `.trimtab`.

        Raises:
            Rejected: they are several, and not all IP addresses of one version.
            Unavailable: there is none.
        """
        with finding.channel("serving", addresses) as channel:
            yield cls(channel)

    def predict(
        self, model: str, rows: Rows, *, version: int = 0, given: Given | None = None, timeout: float = 10.0
    ) -> serving.PredictResponse:
        """Return what `Trimtab.predict` does."""
        answer: serving.PredictResponse = self._ask("Predict", _asked(model, rows, version, given), timeout)
        return answer

    def predict_stream(
        self, model: str, batches: Iterable[Rows], *, version: int = 0, timeout: float | None = None
    ) -> Iterator[serving.PredictResponse | TrimtabError]:
        """Yield what `Trimtab.predict_stream` does; a thread of gRPC's goes through `batches`."""
        requests = (_asked(model, rows, version) for rows in batches)
        try:
            for part in self._stub.PredictStream(requests, timeout=timeout, metadata=_metadata()):
                yield _outcome(part)
        except grpc.RpcError as error:
            raise failure("serving", error) from error

    def explain(
        self, model: str, rows: Rows, *, version: int = 0, samples: int = 0, timeout: float = 30.0
    ) -> serving.ExplainResponse:
        """Return what `Trimtab.explain` does."""
        request = _questioned(model, rows, version, samples)
        answer: serving.ExplainResponse = self._ask("Explain", request, timeout)
        return answer

    def score(
        self,
        model: str,
        features: Sequence[str],
        rows: NDArray[np.float32],
        *,
        version: int = 0,
        text_names: Sequence[str] = (),
        texts: NDArray[np.object_] | None = None,
    ) -> NDArray[np.float64]:
        """Return what `Trimtab.score` does."""
        parts = _parts(model, features, rows, version, text_names, texts)
        return _joined([self._ask("Score", part, _ANSWER_S) for part in parts])

    def _ask(self, method: str, request: Any, timeout: float) -> Any:
        try:
            return getattr(self._stub, method)(request, timeout=timeout, metadata=_metadata())
        except grpc.RpcError as error:
            raise failure("serving", error) from error


def _metadata() -> list[tuple[str, str]]:
    parent = telemetry.traceparent()
    return [] if parent is None else [("traceparent", parent)]


def _encoded(rows: Rows) -> list[bytes]:
    return [row if isinstance(row, bytes) else msgspec.json.encode(row) for row in rows]


def _asked(model: str, rows: Rows, version: int, given: Given | None = None) -> serving.PredictRequest:
    request = serving.PredictRequest(model=model, rows=_encoded(rows), version=version)
    if given:
        request.given.extend(given)
        request.given_values.extend(np.column_stack(list(given.values())).ravel().tolist())
    return request


def _questioned(model: str, rows: Rows, version: int, samples: int) -> serving.ExplainRequest:
    return serving.ExplainRequest(model=model, rows=_encoded(rows), version=version, samples=samples)


def _outcome(part: serving.PredictStreamResponse) -> serving.PredictResponse | TrimtabError:
    if part.HasField("answer"):
        return part.answer
    return rpc.error_by_number(part.failure.code, part.failure.message)


def _parts(
    model: str,
    features: Sequence[str],
    rows: NDArray[np.float32],
    version: int,
    text_names: Sequence[str],
    texts: NDArray[np.object_] | None,
) -> Iterator[serving.ScoreRequest]:
    step = max(1, _MOST_VALUES // max(len(features) + len(text_names), 1))
    for start in range(0, len(rows), step):
        yield serving.ScoreRequest(
            model=model,
            features=features,
            values=rows[start : start + step].ravel().tolist(),
            version=version,
            text_names=text_names,
            texts=[] if texts is None else texts[start : start + step].ravel().tolist(),
        )


def _joined(said: Sequence[serving.ScoreResponse]) -> NDArray[np.float64]:
    return np.concatenate([_of_rows(each) for each in said]) if said else np.empty(0)


def _of_rows(answer: serving.ScoreResponse) -> NDArray[np.float64]:
    if not answer.probabilities:
        return np.array(answer.predictions)
    return np.array(answer.probabilities).reshape(len(answer.predictions), -1)
