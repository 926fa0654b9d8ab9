"""Finds the family and the parameters of `kind: auto`, by rows older than the held-out ones.

A trial is judged as a candidate is: the newest of the rows it may see, stretch by
stretch, each by a fit to what was known before it began. After each stretch the trial
ends if it does worse than half of those before it. Nothing of the held-out rows is
seen, so what they say of the winner is as honest as of a kind that was named.
"""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from trimtab_core import losses
from trimtab_core.specs import Model, ModelSpec

from trimtab_training import fitting
from trimtab_training.errors import RunFailed
from trimtab_training.families import Floats
from trimtab_training.progress import Telling
from trimtab_training.trials import Outcome, handed_over

if TYPE_CHECKING:
    from trimtab_training import tpe

FOUND = "searched.json"
"""What a search in a job's folder has found."""
_LEAST_KNOWN = 20


def settled(model: Model, rows: fitting.Rows, judged: slice, folder: Path, telling: Telling) -> Model:
    """Return the model with the kind and the parameters that a search in `folder` finds or found; as it is, if its kind is named.

    Raises:
        RunFailed: no trial came to anything.
    """
    if model.spec.trainer.kind != "auto":
        return model
    if not (folder / FOUND).exists():
        seen = older(rows, judged, model.spec)
        find(model, folder, telling, telling.heard(lambda spec, at: judge(spec, seen, at)))
    found = json.loads((folder / FOUND).read_text())
    telling.searched(found["trials"], found["best"])
    trainer = model.spec.trainer.model_copy(
        update={"kind": found["kind"], "parameters": found["parameters"], "search": None}
    )
    return model.model_copy(update={"spec": model.spec.model_copy(update={"trainer": trainer})})


def facts(folder: Path) -> dict[str, Any]:
    """Return what a run says of the search in its folder; nothing, if there was none."""
    found = folder / FOUND
    return {"search": json.loads(found.read_text())["search"]} if found.exists() else {}


def older(rows: fitting.Rows, judged: slice, spec: ModelSpec) -> fitting.Rows:
    """Return the rows that trials see: those whose labels were known when the first held-out one was asked.

    Raises:
        RunFailed: they are too few to be split again.
    """
    seen = rows[fitting.known(rows, judged.start, spec)]
    enough = len(seen) > 0 and fitting.known(seen, fitting.held_out(seen, spec).start, spec).stop
    if enough < _LEAST_KNOWN:
        raise RunFailed(
            f"a search judges by rows older than the held-out ones, and only {enough} are older than those: "
            "widen trainer.window, or name a trainer.kind in the place of auto"
        )
    return seen


def judge(spec: ModelSpec, seen: fitting.Rows, at: int) -> Floats:
    """Return what the rows of stretch `at` lose by a fit to what was known before it."""
    judged = fitting.held_out(seen, spec)
    stretch = np.array_split(np.arange(judged.start, judged.stop), fitting.STRETCHES)[at]
    fitted = fitting.fit(spec, seen[fitting.known(seen, int(stretch[0]), spec)])
    return losses.loss(spec.judged_by, seen.label[stretch], fitted.predict(seen.features[stretch]))


def find(
    model: Model, folder: Path, telling: Telling, judge: "tpe.Judge", *, side_by_side: bool = False
) -> None:
    """Search for what `judge` likes best, going on from the trials handed over in `folder`, and write it there."""
    from trimtab_training import tpe

    search = tpe.Search(model.spec, handed_over(folder), telling, judge, side_by_side=side_by_side)
    winner, trials = search.run()
    outcomes = [trial.outcome for trial in trials]
    told = ", ".join(f"{outcomes.count(outcome)} {outcome}" for outcome in Outcome if outcome in outcomes)
    said = f"trial {winner.number + 1} of {len(trials)}, {winner.metric} {winner.value:.6g} ({told})"
    if search.ended_by == "budget":
        said += ", ended by the budget"
    found = {
        "kind": winner.family,
        "parameters": winner.parameters,
        "trials": len(trials),
        "best": str(winner),
        "search": said,
    }
    (folder / FOUND).write_text(json.dumps(found))
