"""Boosted trees as one TreeEnsemble, exactly.

Features are float32 and become doubles, in which thresholds and leaves are kept and
leaves are added: so a row goes to the leaf that its library sends it to, and what is
rounded is rounded once, at the end. Decision 14 says why no converter does this.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from trimtab_training.families import Floats
from trimtab_training.families.margins import Part

Numbers = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Tree:
    """One tree; all arrays are [nodes], and the first node is the root.

    `left` and `right` are places of nodes, -1 at a leaf; `value` is a threshold, or what a leaf adds.
    A row goes left where its feature is missing and `missing_left` is true.
    """

    output: int
    feature: Numbers
    value: Floats
    left: Numbers
    right: Numbers
    missing_left: NDArray[np.bool_]


def part(trees: Sequence[Tree], *, outputs: int, less: Literal["BRANCH_LEQ", "BRANCH_LT"]) -> Part:
    """Return the nodes that add up `trees`; a row goes left where its feature is `less` than the threshold."""
    sizes = np.array([len(tree.left) for tree in trees])
    tree_ids = np.repeat(np.arange(len(trees)), sizes)
    node_ids = np.concatenate([np.arange(size) for size in sizes])
    left, right, feature, value, missing_left = (
        np.concatenate([getattr(tree, name) for tree in trees])
        for name in ("left", "right", "feature", "value", "missing_left")
    )
    leaf = left < 0
    targets = np.repeat([tree.output for tree in trees], sizes)[leaf]
    summed = helper.make_node(
        "TreeEnsembleRegressor",
        ["wide"],
        ["margins"],
        domain="ai.onnx.ml",
        n_targets=outputs,
        nodes_treeids=tree_ids.tolist(),
        nodes_nodeids=node_ids.tolist(),
        nodes_featureids=np.where(leaf, 0, feature).tolist(),
        nodes_modes=np.where(leaf, "LEAF", less).tolist(),
        nodes_truenodeids=np.where(leaf, 0, left).tolist(),
        nodes_falsenodeids=np.where(leaf, 0, right).tolist(),
        nodes_missing_value_tracks_true=np.where(leaf, False, missing_left).astype(np.int64).tolist(),
        nodes_values_as_tensor=_doubles(np.where(leaf, 0.0, value), "thresholds"),
        target_treeids=tree_ids[leaf].tolist(),
        target_nodeids=node_ids[leaf].tolist(),
        target_ids=targets.tolist(),
        target_weights_as_tensor=_doubles(value[leaf], "leaves"),
    )
    return Part([helper.make_node("Cast", ["features"], ["wide"], to=TensorProto.DOUBLE), summed])


def _doubles(values: Floats, name: str) -> Any:
    return numpy_helper.from_array(np.ascontiguousarray(values, np.float64), name)
