"""What a change of a spec breaks for those who lean on it."""

from typing import Final

from trimtab_core.specs import FeatureViewSpec

_OF_ALL_COLUMNS: Final = ("source", "entity", "hop")


def changed_columns(before: FeatureViewSpec, after: FeatureViewSpec) -> dict[str, str]:
    """Return the columns of a view that `after` has no longer, or with another meaning, and what has changed."""
    for name in _OF_ALL_COLUMNS:
        was, now = getattr(before, name), getattr(after, name)
        if was != now:
            shown = (before.model_dump(mode="json")[name], after.model_dump(mode="json")[name])
            return dict.fromkeys(before.columns(), f"its {name} was {shown[0]!r} and would be {shown[1]!r}")
    conditions = _conditions(after)
    return {
        column: f"its `where` was {where!r} and would be {conditions[column]!r}"
        if column in conditions
        else "it would be gone"
        for column, where in _conditions(before).items()
        if column not in conditions or conditions[column] != where
    }


def _conditions(view: FeatureViewSpec) -> dict[str, str | None]:
    """Return the condition of each column, which is all that its name does not say."""
    conditions = [
        aggregate.where
        for aggregate in view.aggregates
        for _ in range(len(aggregate.functions) * len(aggregate.windows))
    ]
    return dict(zip(view.columns(), conditions, strict=True))
