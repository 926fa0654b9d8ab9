"""What monitoring calls the metrics of models: the stable names, by the topic `metrics.<subject>` that carries them.

`docs/metrics.md` says what each means; a name once published keeps its meaning.
"""

from collections.abc import Mapping
from typing import Final

from trimtab_core.losses import LOWER_IS_BETTER

BY_SUBJECT: Final[Mapping[str, tuple[str, ...]]] = {
    "drift": ("drift", "p_value", "prediction_drift"),
    "performance": tuple(LOWER_IS_BETTER),
    "quality": ("null_share",),
}
OF_MODELS: Final = frozenset(name for names in BY_SUBJECT.values() for name in names)
