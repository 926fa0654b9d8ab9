"""Brings a model's ONNX file from an MLflow server.

MLflow itself fetches it (the extra `trimtab[mlflow]`), so every store of artifacts and every way to sign in that it
knows will do. Nothing of the model is run or unpickled: of its flavours the ONNX one is read, and no other.
"""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml
from trimtab_runtime.errors import NotFound, Rejected, Unavailable

SCHEMES = ("mlflow:/", "models:/", "runs:/")
_SETTINGS = {
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",  # of seven, its own, the last comes after minutes of silence
}
"""How MLflow behaves here, where the user's environment does not say otherwise."""
_KEPT = ("MLFLOW_TRACKING_URI", "MLFLOW_REGISTRY_URI")
_FORMS = "mlflow:/models/NAME/VERSION, mlflow:/models/NAME@ALIAS or mlflow:/runs/RUN/PATH"


def is_one(name: str) -> bool:
    """Return whether `name` is a model of MLflow's rather than a file."""
    return name.startswith(SCHEMES)


def address(uri: str) -> str:
    """Return how MLflow writes a model: `models:/NAME/VERSION` for `mlflow:/models/NAME/VERSION`.

    Raises:
        Rejected: it names none.
    """
    kind, _, rest = uri.removeprefix("mlflow:/").strip("/").partition("/")
    kind = kind.removesuffix(":")
    if kind not in ("models", "runs") or not rest or (kind == "runs" and "/" not in rest):
        raise Rejected(f"{uri!r} names no model of MLflow's: write {_FORMS}")
    return f"{kind}:/{rest}"


def fetch(uri: str, tracking_uri: str, folder: Path) -> bytes:
    """Return the ONNX model that `uri` names, as one file; it is fetched into `folder`.

    Raises:
        Rejected: MLflow is not installed here, no server is named, or the model has no ONNX flavour.
        NotFound: the server has no such model.
        Unavailable: the server does not answer.
    """
    wanted = address(uri)
    if not tracking_uri:
        raise Rejected(f"where is the MLflow server of {uri}? Set MLFLOW_TRACKING_URI, or --tracking-uri")
    downloaded = _downloaded(wanted, tracking_uri, folder)
    described = (
        yaml.safe_load((downloaded / "MLmodel").read_text()) if (downloaded / "MLmodel").exists() else {}
    )
    flavours: Mapping[str, Any] = described.get("flavors", {})
    if "onnx" not in flavours:
        has = ", ".join(sorted(flavours)) or "none"
        raise Rejected(
            f"{uri} has no ONNX flavour (its flavours: {has}): log it with mlflow.onnx.log_model, or export an ONNX "
            "file and register that"
        )
    return _whole(downloaded / str(flavours["onnx"].get("data", "model.onnx")))


def _downloaded(wanted: str, tracking_uri: str, folder: Path) -> Path:
    for name, value in _SETTINGS.items():
        os.environ.setdefault(name, value)  # noqa: TID251 - how MLflow is told, and it reads it as it loads
    try:
        import mlflow
        from mlflow.exceptions import MlflowException
    except ImportError as error:
        raise Rejected("MLflow is not installed here: `pip install 'trimtab[mlflow]'`") from error
    before = {name: os.environ.get(name) for name in _KEPT}  # noqa: TID251 - as above
    try:
        # Of a run MLflow looks its logged models up where its process looks, whatever a call names.
        mlflow.set_tracking_uri(tracking_uri)
        mlflow.set_registry_uri(tracking_uri)
        place = mlflow.artifacts.download_artifacts(artifact_uri=wanted, dst_path=str(folder))
    except MlflowException as error:
        if error.error_code in ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"):
            raise NotFound(f"MLflow at {tracking_uri} has no {wanted}: {error.message}") from error
        raise Unavailable(f"MLflow at {tracking_uri} cannot give {wanted}: {error.message}") from error
    except OSError as error:
        raise Unavailable(f"MLflow at {tracking_uri} cannot give {wanted}: {error}") from error
    finally:
        # It writes what it is told into the environment, which whatever is started next would inherit.
        nothing: Any = None
        mlflow.set_tracking_uri(nothing)
        mlflow.set_registry_uri(nothing)
        for setting, held in before.items():
            os.environ.pop(setting, None)  # noqa: TID251 - as above
            if held is not None:
                os.environ[setting] = held  # noqa: TID251 - as above
    return Path(place)


def _whole(path: Path) -> bytes:
    """Return a model with what MLflow keeps in files beside it, its large tensors, taken in."""
    import onnx

    return bytes(onnx.load(str(path)).SerializeToString())
