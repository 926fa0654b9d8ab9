"""What alerts are about, whichever service raises them; `docs/alerts.md` says what each kind means."""

from typing import Final, Literal, get_args

AlertKind = Literal[
    "drift", "rule", "calibration", "quality", "skew", "fairness", "rollback", "volume", "duplicates", "refused", "delay", "silence",
    "expectation", "table",
]  # fmt: skip
KINDS: Final[tuple[AlertKind, ...]] = get_args(AlertKind)
