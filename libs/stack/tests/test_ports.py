import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
from trimtab_stack import ports
from trimtab_stack.errors import PortInUse


@pytest.fixture
def taken() -> Iterator[int]:
    with socket.socket() as listener:
        listener.bind((ports.LOOPBACK, 0))
        listener.listen()
        yield listener.getsockname()[1]


def test_a_chosen_port_is_free_and_below_those_of_outgoing_connections() -> None:
    port = ports.choose()

    assert port < 32_768
    assert ports.is_free(port)


def test_a_port_that_someone_listens_on_is_not_free(taken: int) -> None:
    assert not ports.is_free(taken)


def test_remembered_ports_are_taken_again_and_kept_when_not_wanted(tmp_path: Path) -> None:
    remembered = {"kafka": ports.choose(), "serving-7": ports.choose()}

    allotted = ports.allot(["kafka", "postgres"], remembered, tmp_path)

    assert allotted | remembered == allotted
    assert len(set(allotted.values())) == 3


def test_a_remembered_port_in_use_is_one_sentence_with_the_remedy(taken: int, tmp_path: Path) -> None:
    state = tmp_path / "state.json"

    with pytest.raises(
        PortInUse, match=rf"^port {taken} of kafka is in use .* delete {state} to have new ports chosen$"
    ):
        ports.allot(["kafka"], {"kafka": taken}, state)
