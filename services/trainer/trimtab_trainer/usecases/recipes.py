"""What a run is made of, and what differs where it is made once more.

An input that differs without an effect is named all the same: it is then known to have
none. Where an outcome differs, some input does, or something that nothing records.
"""

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import replace

from trimtab_core import specs
from trimtab_core.features import tables_named, views_named
from trimtab_core.naming import listed
from trimtab_core.specs import Model

from trimtab_trainer.usecases.entities import Compared, Job, Recipe, Reproduction
from trimtab_trainer.usecases.ports import Champions, Recorded, Specs

GONE = "not there"


def of_now(job: Job, known: Specs, champions: Champions) -> Recipe:
    """Return what a job is made of as things stand.

    Raises:
        NotFound: its model, or what that leans on, is not there.
    """
    model = known.model(job.model)
    return Recipe(
        model=model,
        generation=known.generation(model),
        as_of_ms=job.as_of_ms,
        champion=champions.champion(job.model),
        changed_ms=job.changed_ms,
        definitions=definitions(model, known),
    )


def definitions(model: Model, known: Specs) -> Mapping[str, str]:
    """Return the digest of each spec that the model's rows follow from, by kind/name.

    One that is not there is left out: whoever reads the rows says so better.
    """
    spec, found = model.spec, {}
    views = [known.views[name] for text in spec.features for name in views_named(text) if name in known.views]
    tables = [
        known.tables[name] for text in spec.features for name in tables_named(text) if name in known.tables
    ]
    named = {spec.source, spec.label.source, *(view.spec.source for view in views)}
    sources = [known.sources[name] for name in named if name in known.sources]
    resources: list[specs.AnyResource] = [*views, *tables, *sources]
    for each in resources:
        found[f"{each.kind}/{each.name}"] = _digest(each)
    return dict(sorted(found.items()))


def compared(run: Recorded, now: Mapping[str, str], again: Recorded | None, fault: str = "") -> Reproduction:
    """Return how a run compares with itself made once more, `again`; `now` are the definitions as they stand.

    Without `again` it could not be made, for the reason that `fault` says.
    """
    rows = [*_inputs(run, now, again), *(_outcomes(run, again) if again else ())]
    if again is None:
        changed = [row.what for row in rows if not row.same]
        because = f"; {listed(changed)} is not what it was" if changed else ""
        return Reproduction(tuple(rows), f"It cannot be made again: {fault}{because}.")
    found = Reproduction(tuple(rows), "")
    differs = [row.what for row in rows if not row.outcome and not row.same]
    if found.identical:
        other = f", although {listed(differs)} differs" if differs else ""
        return replace(found, sentence=f"It came out the same, to the bit{other}.")
    out = listed([row.what for row in rows if row.outcome and not row.same])
    because = (
        f"{listed(differs)} differs"
        if differs
        else "nothing that is recorded of what went in does: the code draws on chance, time or order by itself"
    )
    return replace(found, sentence=f"{out} came out differently, and {because}.")


def _inputs(run: Recorded, now: Mapping[str, str], again: Recorded | None) -> Iterator[Compared]:
    before = run.recipe.definitions
    for name in dict.fromkeys([*before, *now]):
        yield Compared(f"definition of {name}", before.get(name, GONE), now.get(name, GONE))
    for name, version in run.recipe.tables:
        yield Compared(f"version of {name}", str(version), str(version) if again else GONE)
    if again is not None:
        left, right = run.facts(), again.facts()
        for name in dict.fromkeys([*left, *right]):
            yield Compared(name, left.get(name, GONE), right.get(name, GONE))


def _outcomes(run: Recorded, again: Recorded) -> Iterator[Compared]:
    left, right = run.outcomes(), again.outcomes()
    for name in dict.fromkeys([*left, *right]):
        yield Compared(name, left.get(name, GONE), right.get(name, GONE), outcome=True)


def _digest(resource: specs.AnyResource) -> str:
    written = json.dumps(specs.to_document(resource)["spec"], sort_keys=True)
    return hashlib.sha256(written.encode()).hexdigest()
