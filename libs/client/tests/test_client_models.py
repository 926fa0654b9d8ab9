"""How a version that waits for approval is told."""

import pytest
from trimtab.cli.models import waits
from trimtab_contracts.registry.v1.registry_pb2 import Approval
from trimtab_runtime.clock import to_timestamp

HOUR_MS = 3_600_000


def test_who_has_approved_is_named() -> None:
    given = [Approval.Given(actor="ann"), Approval.Given(actor="bob")]

    assert waits(Approval(approvers=1), 0) == "0 of 1"
    assert waits(Approval(approvers=3, given=given), 0) == "2 of 3 (ann, bob)"


@pytest.mark.parametrize(
    ("hours", "said"),
    [
        (167.9, "expires in 7 d"),
        (5.4, "expires in 5 h"),
        (0.75, "expires in 45 min"),
        (-1.0, "expires in 0 s"),
    ],
)
def test_how_long_it_may_still_take_is_told(hours: float, said: str) -> None:
    now_ms = 1_700_000_000_000
    until = to_timestamp(now_ms + int(hours * HOUR_MS))

    assert waits(Approval(approvers=2, until=until), now_ms) == f"0 of 2, {said}"
