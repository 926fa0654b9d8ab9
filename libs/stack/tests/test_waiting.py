from trimtab_stack.waiting import until


def test_it_says_that_the_condition_came_to_hold() -> None:
    answers = iter([False, False, True])

    assert until(lambda: next(answers), within=5, every=0)


def test_it_gives_up_at_the_deadline_and_looks_once_more() -> None:
    answers = iter([False, True])

    assert until(lambda: next(answers), within=0)
    assert not until(lambda: False, within=0)
