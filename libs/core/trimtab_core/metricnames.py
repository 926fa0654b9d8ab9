"""What monitoring calls the metrics of models and sources: the stable names, by the topic `metrics.<subject>` that carries them.

`docs/metrics.md` says what each means; a name once published keeps its meaning.
"""

from collections.abc import Mapping
from typing import Final, Literal, get_args

from trimtab_core.fairness import Rate
from trimtab_core.losses import LOWER_IS_BETTER, Task

Statistic = Literal["null_share", "impossible_share", "outside_share", "unseen_share"]
STATISTICS: Final[tuple[Statistic, ...]] = ("null_share", "impossible_share", "outside_share", "unseen_share")
"""What is counted of the quality of a feature, in a window of predictions."""
OF_AN_HOUR: Final[Mapping[str, str]] = {
    "refused_share": "refused_an_hour",
    "delay_ms": "hourly_delay_ms",
    **{name: f"hourly_{name}" for name in ("null_share", "distinct", "mean", "stddev", "min", "max")},
}
"""What ingestion says of a source's batches and windows, and what it is called of an hour of them."""
ESTIMATED: Final = tuple(f"estimated_{name}" for name in LOWER_IS_BETTER)
"""What is told of losses before labels come."""
OF_TASK: Final[Mapping[Task, tuple[str, ...]]] = {
    "regression": ("mae", "rmse", "mean_error", "mape", "r2"),
    "binary": (
        *("log_loss", "error_rate", "brier", "ece"),
        *("roc_auc", "average_precision", "precision", "recall", "f1"),
    ),
    "multiclass": ("log_loss", "error_rate", "brier", "ece", "balanced_accuracy", "f1_macro"),
}
"""What labelled predictions come to, as `evidence.figures` has it; one of them is what a model is judged by."""
OF_LABELS: Final = tuple(dict.fromkeys(name for names in OF_TASK.values() for name in names))
BY_SUBJECT: Final[Mapping[str, tuple[str, ...]]] = {
    "drift": ("drift", "p_value", "prediction_drift"),
    "performance": (
        *OF_LABELS,
        *ESTIMATED,
        "labelled_share",
        "evidence_above_accepted",
        *(name for rate in get_args(Rate) for name in (rate, f"{rate}_difference", f"{rate}_ratio")),
    ),
    "quality": (*STATISTICS, "skew_share", "events_an_hour", "repeats_an_hour", *OF_AN_HOUR.values()),
}
RULED: Final = frozenset((*BY_SUBJECT["drift"], *OF_LABELS, *ESTIMATED, "labelled_share", *STATISTICS))
"""Those of a window of predictions on which a spec may set limits of its own."""
OF_FEATURES: Final = frozenset(("drift", *STATISTICS))
"""Of these, those that are told of each feature by itself; the others are of the model as a whole."""
BELOW_0: Final = frozenset(("mean_error", "r2"))
"""Of these, those that may be below 0."""
UP_TO_1: Final = frozenset(("p_value", "estimated_error_rate", "labelled_share", *STATISTICS, *OF_LABELS)) - {
    *("mae", "rmse", "mean_error", "mape", "log_loss", "brier")
}
"""Of these, those that are 1 at most."""
