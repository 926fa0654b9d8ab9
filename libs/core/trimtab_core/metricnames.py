"""What monitoring calls the metrics of models and sources: the stable names, by the topic `metrics.<subject>` that carries them.

`docs/metrics.md` says what each means; a name once published keeps its meaning.
"""

from collections.abc import Mapping
from typing import Final, Literal, get_args

from trimtab_core.fairness import Rate
from trimtab_core.losses import LOWER_IS_BETTER

Statistic = Literal["null_share", "impossible_share", "outside_share", "unseen_share"]
STATISTICS: Final[tuple[Statistic, ...]] = ("null_share", "impossible_share", "outside_share", "unseen_share")
"""What is counted of the quality of a feature, in a window of predictions."""
OF_AN_HOUR: Final[Mapping[str, str]] = {
    "refused_share": "refused_an_hour",
    "delay_ms": "hourly_delay_ms",
    **{name: f"hourly_{name}" for name in ("null_share", "distinct", "mean", "stddev", "min", "max")},
}
"""What ingestion says of a source's batches and windows, and what it is called of an hour of them."""
BY_SUBJECT: Final[Mapping[str, tuple[str, ...]]] = {
    "drift": ("drift", "p_value", "prediction_drift"),
    "performance": (
        *LOWER_IS_BETTER,
        *(f"estimated_{name}" for name in LOWER_IS_BETTER),
        "labelled_share",
        "evidence_above_accepted",
        *(name for rate in get_args(Rate) for name in (rate, f"{rate}_difference", f"{rate}_ratio")),
    ),
    "quality": (*STATISTICS, "skew_share", "events_an_hour", "repeats_an_hour", *OF_AN_HOUR.values()),
}
JUDGED: Final = frozenset((*BY_SUBJECT["drift"], *LOWER_IS_BETTER, *STATISTICS))
"""Those that a window is judged by, on which a spec may set limits of its own."""
