"""From the file of the rows on which a candidate was evaluated to what its gates say; what they mean is core's."""

import pyarrow as pa
from trimtab_core import gating, specs
from trimtab_core.gating import Gate

from trimtab_registry.errors import BadEvaluation
from trimtab_registry.usecases.entities import Document


def judge(
    spec: specs.ModelSpec,
    evaluation: bytes,
    *,
    champion: int = 0,
    seed: int = 0,
    candidate: Document | None = None,
) -> list[Gate]:
    """Hold the rows in an Arrow IPC file, and what was measured of the `candidate`, to the gates of `spec`, and to its tests.

    `champion` is the live version they were evaluated beside, or 0.

    Raises:
        BadEvaluation: the bytes are no such file, or lack what a gate reads.
    """
    try:
        with pa.ipc.open_file(pa.BufferReader(evaluation)) as file:
            table = file.read_all()
        return gating.judge(spec, table, champion=champion, seed=seed, candidate=candidate)
    except gating.NotCompared as error:
        raise BadEvaluation(str(error)) from error
    except (pa.ArrowException, KeyError, ValueError) as error:
        raise BadEvaluation(f"its evaluation cannot be read: {error}") from error
