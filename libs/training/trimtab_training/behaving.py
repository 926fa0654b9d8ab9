"""The behavioural tests of a model's users, held against a model that can be asked."""

from collections.abc import Callable, Iterable, Sequence
from typing import Any

from trimtab_core.behaviour import Asked, behave
from trimtab_core.specs import ModelTest

from trimtab_training.inputs import Inputs, Matrix, pair


def results(
    tests: Iterable[ModelTest],
    predict: Callable[[Any], Any],
    names: Sequence[str],
    texts: Sequence[str],
    classes: Sequence[str],
    held_out: Matrix | Inputs,
) -> list[dict[str, Any]]:
    """Return what each case of `tests` found of a model, as a candidate tells it.

    `predict` takes rows as `held_out` has them, of the features `names`, which are numbers, and `texts`; `classes` are those of
    the label, if it has such.
    """

    def answer(numbers: Any, words: Any) -> Any:
        return predict(Inputs(numbers, words, held_out.words) if isinstance(held_out, Inputs) else numbers)

    asked = Asked(names, texts, classes, pair(held_out), answer)
    return [
        {
            "gate": f"test {test.name}: {name}",
            "passed": finding.passed,
            "value": finding.value or 0.0,
            "limit": finding.limit,
            "sentence": finding.sentence,
        }
        for test in tests
        for name, finding in behave(test.spec, asked)
    ]
