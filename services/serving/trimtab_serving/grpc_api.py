"""gRPC door of serving: rows in, predictions and their reasons out."""

from collections.abc import Iterator
from typing import Any

import numpy as np
from trimtab_contracts.serving.v1.serving_pb2 import (
    ExplainRequest,
    ExplainResponse,
    PredictRequest,
    PredictResponse,
    PredictStreamResponse,
    ScoreRequest,
    ScoreResponse,
)
from trimtab_contracts.serving.v1.serving_pb2_grpc import PredictionServicer
from trimtab_runtime import rpc
from trimtab_runtime.clock import to_timestamp
from trimtab_runtime.errors import TrimtabError

from trimtab_serving.errors import BadRow
from trimtab_serving.explaining import Explanations
from trimtab_serving.rows import Given
from trimtab_serving.usecases import Predictions

SERVICE = "trimtab.serving.v1.Prediction"


class PredictionApi(PredictionServicer):
    """Answers `trimtab.serving.v1.Prediction`."""

    def __init__(self, predictions: Predictions, explanations: Explanations) -> None:
        self._predictions = predictions
        self._explanations = explanations

    def Predict(self, request: PredictRequest, context: Any) -> PredictResponse:
        """Answer for some rows of the model's source."""
        answer = self._predictions.predict(request.model, request.rows, request.version, _given(request))
        until = answer.features_until_ms
        said = answer.predictions
        response = PredictResponse(
            model=request.model,
            predictions=(said.argmax(axis=1) if answer.classes else said).tolist(),
            versions=answer.versions,
            ids=answer.ids,
            features_until=None if until is None else to_timestamp(until),
            arms=answer.arms,
            views=answer.views.names,
            until_ms=answer.views.until_ms,
            as_of_ms=answer.views.as_of_ms,
        )
        if answer.classes:
            response.classes.extend([answer.classes[int(number)] for number in response.predictions])
            response.class_names.extend(answer.classes)
            response.probabilities.extend(said.ravel().tolist())
        return response

    def PredictStream(
        self, requests: Iterator[PredictRequest], context: Any
    ) -> Iterator[PredictStreamResponse]:
        """Answer each request of a stream in its turn; one that fails is told so, and the next is answered."""
        for request in requests:
            try:
                yield PredictStreamResponse(answer=self.Predict(request, context))
            except TrimtabError as error:
                failure = PredictStreamResponse.Failure(
                    code=rpc.status_of(error).value[0], message=str(error)
                )
                yield PredictStreamResponse(failure=failure)

    def Explain(self, request: ExplainRequest, context: Any) -> ExplainResponse:
        """Say what each feature contributes to what a version answers."""
        found = self._explanations.explain(request.model, request.rows, request.version, request.samples)
        until = found.features_until_ms
        return ExplainResponse(
            model=request.model,
            version=found.version.number,
            features=found.version.inputs,
            explanations=[
                ExplainResponse.Explanation(
                    prediction=why.shares.prediction,
                    base=why.shares.base,
                    values=why.features,
                    texts=why.texts,
                    class_name=why.class_name,
                    contributions=why.shares.contributions.tolist(),
                    standard_errors=why.shares.standard_errors.tolist(),
                )
                for why in found.reasons
            ],
            features_until=None if until is None else to_timestamp(until),
        )

    def Score(self, request: ScoreRequest, context: Any) -> ScoreResponse:
        """Answer for rows of features."""
        numbers = (request.features, np.array(request.values, np.float32))
        texts = (request.text_names, np.array(list(request.texts), object))
        answer = self._predictions.score(request.model, numbers, texts, request.version)
        said = answer.predictions
        return ScoreResponse(
            predictions=(said.argmax(axis=1) if answer.classes else said).tolist(),
            version=answer.versions[0],
            probabilities=said.ravel().tolist() if answer.classes else [],
        )


def _given(request: PredictRequest) -> Given | None:
    """Return the features of views that came with a request, by name; None if none did."""
    if not request.given:
        return None
    rows, width = len(request.rows), len(request.given)
    if len(request.given_values) != rows * width:
        raise BadRow(
            f"there are {len(request.given_values)} given values, and {rows} rows of {width}: send one of each a row"
        )
    values = np.array(request.given_values, np.float64).reshape(rows, width)
    return dict(zip(request.given, values.T, strict=True))
