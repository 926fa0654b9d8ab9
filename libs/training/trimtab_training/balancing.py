"""What the rows of each class weigh where `trainer.class_weight` is `balanced`.

A rare class then bends a fit as much as a frequent one does. What a weighted fit answers
are probabilities of a world in which all classes are as frequent; the weights are taken
out of them again, so what is judged, gated and served is of the world as it is.
"""

import numpy as np
from trimtab_core.specs import ModelSpec

from trimtab_training.families import Floats


def by_class(spec: ModelSpec, labels: Floats, weights: Floats | None) -> Floats | None:
    """Return the weight of each class' rows [classes], by which all classes that occur come to the same; None for no weights.

    `weights` [rows] are those that rows have by their age.
    """
    if spec.trainer.class_weight is None or spec.task == "regression":
        return None
    classes = 2 if spec.task == "binary" else len(spec.label.classes)
    amounts = np.bincount(labels.astype(np.int64), weights, classes).astype(np.float64)
    occur = amounts > 0
    found = np.ones(classes)
    found[occur] = amounts.sum() / (occur.sum() * amounts[occur])
    return found


def by_row(by_class: Floats, labels: Floats, weights: Floats | None) -> Floats:
    """Return what each row [rows] weighs by its class and its age."""
    of_class: Floats = by_class[labels.astype(np.int64)]
    return of_class if weights is None else of_class * weights
