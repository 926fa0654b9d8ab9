"""A small network of fully connected layers, by PyTorch.

It sees each feature standardised, 0 where it is missing, and whether it is missing
where that happened in training. How many epochs it needs is found on the newest share
of its rows; what is returned is then fitted to all of them, for the newest matter most.
"""

from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from onnx import TensorProto, helper, numpy_helper
from torch.nn import Dropout, Linear, ReLU, Sequential
from torch.nn import functional as losses
from trimtab_core.specs import ModelSpec

from trimtab_training.errors import RunFailed
from trimtab_training.families import Floats, Matrix
from trimtab_training.families.margins import Margins, Part, log_odds, outputs
from trimtab_training.families.parameters import Allowed, Number, Whole, checked

_PARAMETERS: dict[str, Allowed] = {
    "layers": Whole(1, 8),
    "hidden": Whole(1, 4096),
    "dropout": Number(0.0, 0.9),
    "epochs": Whole(1, 10_000),
    "patience": Whole(0, 10_000),
    "batch_size": Whole(1),
    "learning_rate": Number(over=0, high=1),
    "weight_decay": Number(0.0, 1.0),
}
_DEFAULTS: dict[str, Any] = {
    "layers": 2, "hidden": 64, "dropout": 0.0, "epochs": 100, "patience": 10, "batch_size": 256,
    "learning_rate": 1e-3, "weight_decay": 1e-4,
}  # fmt: skip
_NEWEST = 0.1
"""The share of the rows on which the number of epochs is found."""
_FARTHEST = 10.0
"""So many standard deviations from the mean is as far as a feature goes: one monster value decides nothing."""


def fit(spec: ModelSpec, features: Matrix, labels: Floats, weights: Floats | None) -> Margins:
    """Fit a network; the same rows, weights and seed give the same network on one machine."""
    given = _DEFAULTS | checked(spec, _PARAMETERS)
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True)
    inlet, width = _inlet(features), outputs(spec)
    middle, scale = _scale(spec, labels)
    rows = _Rows(
        torch.from_numpy(inlet.prepared(features)),
        torch.from_numpy(((labels - middle) / scale).astype(np.float32)),
        torch.from_numpy(np.ones(len(labels), np.float32) if weights is None else weights.astype(np.float32)),
    )
    epochs, told = given["epochs"], given["epochs"]
    if given["patience"] and len(labels) > 1 / _NEWEST:
        newest = len(labels) - round(len(labels) * _NEWEST)
        _, epochs = _trained(spec, given, width, rows[:newest], rows[newest:], told=(0, 2 * told))
        told = 2 * told
    network, _ = _trained(
        spec, given | {"epochs": epochs}, width, rows, None, told=(told - given["epochs"], told)
    )
    with torch.no_grad():
        network[-1].weight *= scale
        network[-1].bias *= scale
    if not all(bool(torch.isfinite(each).all()) for each in network.parameters()):
        raise RunFailed(
            f"the network diverged: lower trainer.parameters.learning_rate, which is {given['learning_rate']:g}, "
            "or bring the label's values nearer to 1"
        )
    of = (inlet, network)
    moved = np.full(width, middle, np.float64)
    return Margins(spec.task, features.shape[1], partial(_said, *of), partial(_part, *of), moved)


@dataclass(frozen=True, slots=True)
class _Inlet:
    """What features become before the first layer."""

    mean: Matrix
    spread: Matrix
    may_miss: Any
    """Places of the features that are missing in some rows and not in others, int64."""

    def prepared(self, features: Matrix) -> Matrix:
        """Return what the first layer sees [rows, features, and those that may miss]."""
        missing = np.isnan(features)
        with np.errstate(over="ignore"):  # far is far
            standard = np.clip((features - self.mean) / self.spread, -_FARTHEST, _FARTHEST)
        standard[missing] = 0.0
        return np.concatenate([standard, missing[:, self.may_miss].astype(np.float32)], axis=1)


@dataclass(frozen=True, slots=True)
class _Rows:
    """Tensors float32: features [rows, inputs], the others [rows]."""

    features: Any
    labels: Any
    weights: Any

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, places: Any) -> "_Rows":
        return _Rows(self.features[places], self.labels[places], self.weights[places])


def _said(inlet: _Inlet, network: Any, asked: Matrix) -> Floats:
    with torch.no_grad():
        return np.asarray(network(torch.from_numpy(inlet.prepared(asked))).numpy(), np.float64)


def _inlet(features: Matrix) -> _Inlet:
    wide = np.where(np.isfinite(features), features, np.nan).astype(np.float64)
    known = np.maximum(np.isfinite(wide).sum(axis=0), 1)
    mean = np.nansum(wide, axis=0) / known
    spread = np.sqrt(np.nansum((wide - mean) ** 2, axis=0) / known)
    # What taught nothing, for it was always the same, says nothing later either.
    spread[spread < 1e-6 * np.maximum(np.abs(mean), 1e-12)] = np.finfo(np.float32).max
    missing = np.isnan(features)
    return _Inlet(
        mean.astype(np.float32),
        spread.astype(np.float32),
        np.flatnonzero(missing.any(axis=0) & ~missing.all(axis=0)),
    )


def _scale(spec: ModelSpec, labels: Floats) -> tuple[float, float]:
    """Return what a regression's labels are centred and divided by; by what one monster label does not move, if that is not to count."""
    if spec.task != "regression":
        return 0.0, 1.0
    if spec.judged_by == "mae":
        middle = float(np.median(labels))
        spread = float(np.median(np.abs(labels - middle))) or float(labels.std())
    else:
        middle, spread = float(labels.mean()), float(labels.std())
    return middle, spread or 1.0


def _trained(
    spec: ModelSpec,
    given: dict[str, Any],
    width: int,
    rows: _Rows,
    newest: _Rows | None,
    *,
    told: tuple[int, int],
) -> tuple[Any, int]:
    """Return a network after `epochs`, and after how many of them it was best on `newest`, if there are any."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(spec.trainer.seed)
        network = _network(rows.features.shape[1], width, given)
        if spec.task != "regression":
            odds = log_odds(rows.labels.numpy(), rows.weights.numpy(), width)
            network[-1].bias.data.copy_(torch.from_numpy(odds))
        steps = torch.optim.AdamW(
            network.parameters(), lr=given["learning_rate"], weight_decay=given["weight_decay"]
        )
        best, at = np.inf, given["epochs"]
        for epoch in range(1, given["epochs"] + 1):
            for batch in torch.randperm(len(rows)).split(given["batch_size"]):
                some = rows[batch]
                if not some.weights.any():  # rows of long ago, whose weight a float32 has no number for
                    continue
                steps.zero_grad()
                _loss(spec, network, some).backward()
                steps.step()
            print(f"[{told[0] + epoch}/{told[1]}]")
            if newest is None:
                continue
            network.eval()
            with torch.no_grad():
                lost = float(_loss(spec, network, newest))
            network.train()
            if lost < best:
                best, at = lost, epoch
            elif epoch - at >= given["patience"] or not np.isfinite(best):
                break
    network.eval()
    return network, at


def _network(inputs: int, width: int, given: dict[str, Any]) -> Any:
    layers: list[Any] = []
    for _ in range(given["layers"]):
        layers += [Linear(inputs, given["hidden"]), ReLU(), Dropout(given["dropout"])]
        inputs = given["hidden"]
    return Sequential(*layers, Linear(inputs, width))


def _loss(spec: ModelSpec, network: Any, rows: _Rows) -> Any:
    """Return the weighted mean loss: that which the model is judged by."""
    said = network(rows.features)
    if spec.task == "multiclass":
        lost = losses.cross_entropy(said, rows.labels.long(), reduction="none")
    elif spec.task == "binary":
        lost = losses.binary_cross_entropy_with_logits(said[:, 0], rows.labels, reduction="none")
    elif spec.judged_by == "mae":
        lost = losses.l1_loss(said[:, 0], rows.labels, reduction="none")
    else:
        lost = losses.mse_loss(said[:, 0], rows.labels, reduction="none")
    return (lost * rows.weights).sum() / rows.weights.sum()


def _part(inlet: _Inlet, network: Any) -> Part:
    """Return the network as nodes, its preparation before it."""
    make = helper.make_node
    values = {
        "mean": inlet.mean,
        "spread": inlet.spread,
        "near": np.array(-_FARTHEST, np.float32),
        "far": np.array(_FARTHEST, np.float32),
        "none": np.array(0, np.float32),
        "may_miss": inlet.may_miss,
    }
    nodes = [
        make("IsNaN", ["features"], ["missing"]),
        make("Sub", ["features", "mean"], ["centred"]),
        make("Div", ["centred", "spread"], ["standard"]),
        make("Clip", ["standard", "near", "far"], ["clipped"]),
        make("Where", ["missing", "none", "clipped"], ["known"]),
        make("Gather", ["missing", "may_miss"], ["flagged"], axis=1),
        make("Cast", ["flagged"], ["flags"], to=TensorProto.FLOAT),
        make("Concat", ["known", "flags"], ["layer_0"], axis=1),
    ]
    layers = [layer for layer in network if isinstance(layer, Linear)]
    for number, layer in enumerate(layers, start=1):
        values[f"weight_{number}"] = layer.weight.detach().numpy()
        values[f"bias_{number}"] = layer.bias.detach().numpy()
        is_last = number == len(layers)
        summed = "margins" if is_last else f"sum_{number}"
        nodes.append(
            make("Gemm", [f"layer_{number - 1}", f"weight_{number}", f"bias_{number}"], [summed], transB=1)
        )
        if not is_last:
            nodes.append(make("Relu", [summed], [f"layer_{number}"]))
    return Part(
        nodes, [numpy_helper.from_array(np.ascontiguousarray(value), name) for name, value in values.items()]
    )
