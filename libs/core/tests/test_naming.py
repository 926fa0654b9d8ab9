"""Ids and lists: what was named once is named so for ever."""

import pytest
from trimtab_core.episodes import episode_id
from trimtab_core.naming import id_of, listed
from trimtab_core.policy import command_id


def test_an_id_is_what_it_was_when_it_was_first_kept() -> None:
    assert id_of("m", "schedule", 7) == "de4de0964eb47ff18cd69c06ee4cd598"
    assert episode_id("m", "3", "data", 1.5) == "328a3c0b84538bae0eecce02a055cfec"
    assert command_id("e", 1) == "7d16a14b758fb33bbd24feb65f351cca"


def test_parts_that_read_alike_together_have_other_ids() -> None:
    assert len({id_of("ab", "c"), id_of("a", "bc"), id_of("abc"), id_of("c", "ab")}) == 4


@pytest.mark.parametrize(
    ("names", "said"), [([], ""), (["a"], "a"), (["a", "b"], "a and b"), (["a", "b", "c"], "a, b and c")]
)
def test_names_are_listed_as_a_sentence_says_them(names: list[str], said: str) -> None:
    assert listed(names) == said
