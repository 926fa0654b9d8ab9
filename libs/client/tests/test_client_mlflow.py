"""A model of MLflow's, logged by MLflow into a real MLflow server."""

import os
import subprocess
import sys
from pathlib import Path

import onnx
import pytest
from trimtab import mlflowmodels, registering
from trimtab_runtime.errors import NotFound, Rejected, Unavailable
from trimtab_stack import ports
from trimtab_stack.environment import tools
from trimtab_stack.testing import MLflowServer

LOG = r"""
import sys, mlflow.onnx, numpy as np
from onnx import TensorProto, helper, numpy_helper
wide = numpy_helper.from_array(np.ones((2000, 1), np.float32), "weights")
graph = helper.make_graph(
    [helper.make_node("MatMul", ["features", "weights"], ["prediction"])], "g",
    [helper.make_tensor_value_info("features", TensorProto.FLOAT, [None, 2000])],
    [helper.make_tensor_value_info("prediction", TensorProto.FLOAT, [None, 1])], [wide])
model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
with mlflow.start_run() as run:
    mlflow.onnx.log_model(model, name="model", registered_model_name="trips", pip_requirements=[])
    mlflow.log_text("not a model", "notes/readme.txt")
mlflow.MlflowClient().set_registered_model_alias("trips", "champion", "1")
sys.stdout.write("\n" + run.info.run_id)
"""


@pytest.fixture(scope="module")
def logged(mlflow_server: MLflowServer) -> str:
    """The run that logged version 1 of `trips`; by a process of its own, as users do it."""
    environ = tools() | {"MLFLOW_TRACKING_URI": mlflow_server.url, "MLFLOW_DISABLE_TELEMETRY": "true"}
    done = subprocess.run(
        [sys.executable, "-c", LOG], env=environ, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()[-1]


@pytest.mark.parametrize(
    "form",
    [
        "mlflow:/models/trips/1",
        "models:/trips/1",
        "mlflow:/models/trips@champion",
        "mlflow:/runs/{run}/model",
    ],
)
def test_a_logged_model_comes_as_one_file(form: str, mlflow_server: MLflowServer, logged: str) -> None:
    file = registering.model(form.format(run=logged), mlflow_server.url)

    assert "MLFLOW_TRACKING_URI" not in os.environ  # noqa: TID251 - or services that start next would be told so
    assert file.name == form.format(run=logged)
    model = onnx.load_model_from_string(file.content)
    assert [each.name for each in model.graph.input] == ["features"]
    assert len(model.graph.initializer[0].raw_data) == 8000  # MLflow keeps it in a file beside the model


@pytest.mark.parametrize(
    "form", ["mlflow:/models/trips/9", "mlflow:/models/none/1", "mlflow:/runs/none/model"]
)
def test_one_that_is_not_there_is_not_found(
    form: str, mlflow_server: MLflowServer, logged: str, tmp_path: Path
) -> None:
    with pytest.raises(NotFound, match=f"MLflow at {mlflow_server.url} has no "):
        mlflowmodels.fetch(form, mlflow_server.url, tmp_path)


def test_what_has_no_onnx_flavour_is_refused(
    mlflow_server: MLflowServer, logged: str, tmp_path: Path
) -> None:
    with pytest.raises(Rejected, match=r"has no ONNX flavour .its flavours: none"):
        mlflowmodels.fetch(f"mlflow:/runs/{logged}/notes", mlflow_server.url, tmp_path)


@pytest.mark.parametrize("uri", ["mlflow:/trips", "mlflow:/runs/abc", "models:/", "mlflow:/experiments/1"])
def test_what_names_no_model_says_how_to_write_one(uri: str, tmp_path: Path) -> None:
    with pytest.raises(Rejected, match=r"names no model of MLflow's: write mlflow:/models/NAME/VERSION"):
        mlflowmodels.fetch(uri, "http://127.0.0.1:1", tmp_path)


def test_a_server_that_is_not_named_is_asked_for(tmp_path: Path) -> None:
    with pytest.raises(Rejected, match="MLFLOW_TRACKING_URI"):
        mlflowmodels.fetch("mlflow:/models/trips/1", "", tmp_path)


def test_a_server_that_is_away_is_said_to_be(mlflow_server: MLflowServer, tmp_path: Path) -> None:
    nobody = f"http://127.0.0.1:{ports.choose()}"
    with pytest.raises(Unavailable, match=f"MLflow at {nobody} cannot give models:/trips/1"):
        mlflowmodels.fetch("mlflow:/models/trips/1", nobody, tmp_path)
