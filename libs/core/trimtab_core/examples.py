"""A project's own examples, held against its specs in this process: events against contracts, features against folds.

What is run is what the services run: the compiled contract, and the slots that the
feature store folds.
"""

import math
from collections.abc import Iterator, Mapping

import msgspec
import numpy as np

from trimtab_core.contract import Contract, Reason, entity_key
from trimtab_core.grouping import Grouping
from trimtab_core.slots import FoldState, Layout
from trimtab_core.specs import ContractTestSpec, FeatureTestSpec, FeatureViewSpec, SourceSpec
from trimtab_core.specs.tests import ExampleEvent, Expected
from trimtab_core.timestamps import NOT_A_TIME, parse_timestamp, zone

_encode = msgspec.json.Encoder().encode


def contract(test: ContractTestSpec, source: SourceSpec) -> Iterator[tuple[str, str]]:
    """Yield each example's name, and what is not as it should be; nothing, if all is."""
    compiled = Contract(source)
    for example in test.events:
        yield example.name, _example(example, compiled)


def _example(example: ExampleEvent, contract: Contract) -> str:
    event = dict(example.event)
    if example.arrived_at is not None:
        arrived = _instant(example.arrived_at)
    else:
        found = contract.event_time_ms(event)
        arrived = 0 if found == NOT_A_TIME else found
    checked = contract.check([_encode(event)], np.array([arrived], np.int64))
    (row,), (reasons,) = checked.rows, checked.reasons
    if not example.refused:
        if reasons:
            return f"it is refused: {'; '.join(reason.message for reason in reasons)}"
        wrong = [
            f"{name} becomes {(row or {}).get(name)!r}, not {value!r}"
            for name, value in example.becomes.items()
            if (row or {}).get(name) != value
        ]
        return "; ".join(wrong)
    if not reasons:
        return f"it is let in, and {', '.join(example.refused)} was expected"
    unfound = [said for said in example.refused if not any(_fits(said, reason) for reason in reasons)]
    others = [reason for reason in reasons if not any(_fits(said, reason) for said in example.refused)]
    wrong = [f"it is not refused for {said}" for said in unfound]
    wrong += [f"it is also refused for {reason.code} {reason.field}: {reason.message}" for reason in others]
    return "; ".join(wrong)


def _fits(said: str, reason: Reason) -> bool:
    code, _, field = said.strip().partition(" ")
    return code == reason.code and field.strip() in ("", reason.field)


def features(test: FeatureTestSpec, view: FeatureViewSpec, source: SourceSpec) -> Iterator[tuple[str, str]]:
    """Yield the name of each expectation, and what is not as it should be; nothing, if all is."""
    try:
        layout = Layout.of(view, source.lateness)
        folded = _Folded(test, view, source, layout)
    except ValueError as error:
        yield "events", str(error)
        return
    for place, expected in enumerate(test.expect):
        shown = ", ".join(f"{name} {value}" for name, value in expected.entity.items()) or "all events"
        yield f"{place + 1}: {shown} at {expected.at}", folded.fault(expected)


class _Folded:
    """The events of a test, as the view takes them."""

    def __init__(
        self, test: FeatureTestSpec, view: FeatureViewSpec, source: SourceSpec, layout: Layout
    ) -> None:
        self._view, self._layout = view, layout
        compiled = Contract(source)
        wanted = {*layout.fields, *view.entities, source.event_time}
        rows = [dict(event) for event in test.events]
        for number, row in enumerate(rows, start=1):
            for cleaner in compiled.cleaners:
                if cleaner.name in row or cleaner.name in wanted:
                    cleaner.clean(row)
            if unknown := row.keys() - source.fields.keys():
                raise ValueError(
                    f"event {number} has {sorted(unknown)[0]!r}, which is no field of source {view.source!r}"
                )
            if reasons := compiled.check_fields(row, wanted | row.keys()):
                raise ValueError(f"event {number} is refused: {'; '.join(each.message for each in reasons)}")
        keys = [entity_key([row.get(name) for name in view.entities]) for row in rows]
        kept = [at for at, key in enumerate(keys) if key is not None]
        self._keys = [keys[at] or "" for at in kept]
        self._times = np.array([compiled.event_time_ms(rows[at]) for at in kept], np.int64)
        columns = {name: [rows[at].get(name) for at in kept] for name in layout.fields}
        self._values = Grouping(layout, source.fields).values(columns, len(kept))
        self._ids = [f"event-{at:08}" for at in kept]

    def fault(self, expected: Expected) -> str:
        """Return which features are not as expected."""
        if expected.entity.keys() != set(self._view.entities):
            names = ", ".join(self._view.entities) or "nothing, for the view has one row for all events"
            return f"its entity names {', '.join(expected.entity) or 'nothing'}, and the view is told apart by {names}"
        at_ms = _instant(expected.at)
        known = np.flatnonzero(self._times <= at_ms).tolist()
        state = FoldState(self._layout)
        state.fold(
            [self._keys[at] for at in known],
            self._times[known],
            self._values[known],
            [self._ids[at] for at in known],
        )
        entity = entity_key([expected.entity[name] for name in self._view.entities]) or ""
        found = dict(zip(self._view.columns(), state.values([entity], at_ms)[0].tolist(), strict=True))
        wrong = [_wrong(name, value, found, expected.within) for name, value in expected.values.items()]
        return "; ".join(filter(None, wrong))


def _wrong(name: str, value: float | None, found: Mapping[str, float], within: float) -> str:
    if name not in found:
        return f"the view has no feature {name!r}: there are {', '.join(sorted(found))}"
    is_value, shown = found[name], "unknown" if math.isnan(found[name]) else f"{found[name]:.12g}"
    if value is None:
        return "" if math.isnan(is_value) else f"{name} is {shown}, and was expected to be unknown"
    right = abs(is_value - value) <= within * max(abs(value), 1.0)
    return "" if right else f"{name} is {shown}, and {value:.12g} was expected"


def _instant(text: str) -> int:
    return parse_timestamp(text, zone(None))
