"""gRPC door of serving: rows in, predictions out."""

from typing import Any

from trimtab_contracts.serving.v1.serving_pb2 import PredictRequest, PredictResponse
from trimtab_contracts.serving.v1.serving_pb2_grpc import PredictionServicer
from trimtab_runtime.clock import to_timestamp

from trimtab_serving.usecases import Predictions

SERVICE = "trimtab.serving.v1.Prediction"


class PredictionApi(PredictionServicer):
    """Answers `trimtab.serving.v1.Prediction`."""

    def __init__(self, predictions: Predictions) -> None:
        self._predictions = predictions

    def Predict(self, request: PredictRequest, context: Any) -> PredictResponse:
        """Answer for some rows of the model's source."""
        answer = self._predictions.predict(request.model, request.rows, request.version)
        until = answer.features_until_ms
        said = answer.predictions
        response = PredictResponse(
            model=request.model,
            predictions=(said.argmax(axis=1) if answer.classes else said).tolist(),
            versions=answer.versions,
            ids=answer.ids,
            features_until=None if until is None else to_timestamp(until),
        )
        if answer.classes:
            response.classes.extend([answer.classes[int(number)] for number in response.predictions])
            response.class_names.extend(answer.classes)
            response.probabilities.extend(said.ravel().tolist())
        return response
