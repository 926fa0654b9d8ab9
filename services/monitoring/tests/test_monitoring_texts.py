"""Features that are texts are watched: the shares of a category, and what words are about."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import msgspec
import numpy as np
import pytest
from trimtab_contracts.serving.v1.serving_pb2 import PredictionBatch
from trimtab_monitoring import messages
from trimtab_monitoring.errors import BadBatch
from trimtab_monitoring.usecases.entities import Arrivals

KIND, NOTE = TEXTS = ("request.kind", "text(request.note)")
Make = Callable[..., Any]


def some_texts(rows: int, seed: int, *, vans: float = 0.1, about: str = "fine", silent: float = 0.0) -> Any:
    """Return texts [rows, texts]: kinds of car, and notes of two common words and what they are `about`."""
    rng = np.random.default_rng((5, seed))
    kinds = rng.choice(["taxi", "cab", "van"], rows, p=[0.6 * (1 - vans), 0.4 * (1 - vans), vans])
    notes = [f"{one} {two} {about}" for one, two in rng.choice(["ride", "the", "driver", "was"], (rows, 2))]
    notes = ["" if mute else note for note, mute in zip(notes, rng.random(rows) < silent, strict=True)]
    return np.array([kinds, notes], object).T


@pytest.fixture
def watched(world: Any, new_world: Make) -> Any:
    """A world whose version takes a category and words beside its numbers."""
    desk = type(world.desk)()
    desk.files["/1"] = desk.files["/1"] | dict(zip(TEXTS, some_texts(3_000, 0).T, strict=True))
    return new_world(desk=desk)


async def live(watched: Any, flow: Make, **changes: Any) -> list[Any]:
    """Let three windows pass, of which the texts are `changes`, and return the drift that was told."""
    await watched.ready()
    traffic, texts = flow(0, 300), some_texts(300, 1, **changes)
    said = [msgspec.json.encode(row) for row in texts.tolist()]
    predicted = replace(traffic.predicted(), text_names=TEXTS, texts=said)
    await watched.store.take(Arrivals([predicted], [traffic.labelled()]))
    await watched.mark(traffic.times[-1])
    await watched.close()
    found: list[Any] = watched.drifts()
    return found


async def test_texts_that_stay_as_they_were_are_no_drift(watched: Any, flow: Make) -> None:
    assert await live(watched, flow) == []


@pytest.mark.parametrize(
    ("changes", "named"), [({"vans": 0.6}, KIND), ({"about": "late again, and rude"}, NOTE)]
)
async def test_a_category_and_words_that_change_are_drift_and_are_named(
    watched: Any, flow: Make, changes: dict[str, Any], named: str
) -> None:
    (drift,) = await live(watched, flow, **changes)

    assert [it.feature for it in drift.features if it.drifted] == [named]
    assert drift.summary.startswith(f"Against what version 1 was trained on, {named} moved by")


async def test_a_text_that_is_empty_is_missing(watched: Any, flow: Make) -> None:
    await live(watched, flow, silent=0.5)

    shares = [it for it in watched.memory.told if getattr(it, "name", "") == "null_share"]
    assert {it.feature for it in shares} == {NOTE}
    assert all(0.3 < it.value < 0.7 and 0 < it.threshold < 0.05 for it in shares)


def test_texts_are_read_row_by_row_and_held_to_their_number() -> None:
    columns: dict[str, Any] = {
        "ids": ["a", "b"], "keys": ["k", "l"], "event_time_ms": [1, 2], "champion": [0.5, 0.6], "text_names": TEXTS,
    }  # fmt: skip
    found = messages.predicted(PredictionBatch(model="m", texts=["taxi", "so so", "van", ""], **columns))

    assert found.carries == TEXTS
    assert found.texts is not None
    assert [msgspec.json.decode(each) for each in found.texts] == [["taxi", "so so"], ["van", ""]]
    with pytest.raises(BadBatch, match="has 3 texts: 2 rows of 2 have 4"):
        messages.predicted(PredictionBatch(model="m", texts=["taxi", "so so", "van"], **columns))
