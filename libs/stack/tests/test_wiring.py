from pathlib import Path

import pytest
from trimtab_stack.errors import UnknownService
from trimtab_stack.wiring import Wiring


def a_wiring(**given: str) -> Wiring:
    return Wiring(
        directory=Path("/here"),
        kafka_servers="127.0.0.1:1",
        postgres_dsn="postgresql://2",
        services={"registry": 1, "feature_store": 2, "trainer": 0},
        ports={"registry-0": 10, "feature_store-0": 20, "feature_store-1": 21},
        given=given,
    )


def test_clients_are_told_every_address_and_commas_part_several() -> None:
    assert a_wiring().for_clients() == {
        "TRIMTAB_KAFKA_SERVERS": "127.0.0.1:1",
        "TRIMTAB_POSTGRES_DSN": "postgresql://2",
        "TRIMTAB_REGISTRY_ADDRESS": "127.0.0.1:10",
        "TRIMTAB_FEATURE_STORE_ADDRESS": "127.0.0.1:20,127.0.0.1:21",
    }


def test_a_process_is_told_its_own_address_name_and_folders_besides() -> None:
    wiring = a_wiring()

    own = wiring.for_process("feature_store", 1).items() - wiring.for_clients().items()

    assert dict(own) == {
        "TRIMTAB_GRPC_ADDRESS": "127.0.0.1:21",
        "TRIMTAB_INSTANCE": "feature_store-1",
        "TRIMTAB_DATA_DIR": "/here/data",
        "TRIMTAB_STATE_DIR": "/here/state/feature_store-1",
        "TRIMTAB_TRACE_FILE": "/here/traces/feature_store-1.jsonl",
        "DO_NOT_TRACK": "1",
    }


def test_what_the_caller_gave_wins() -> None:
    assert a_wiring(TRIMTAB_DATA_DIR="/there").for_process("registry", 0)["TRIMTAB_DATA_DIR"] == "/there"


@pytest.mark.parametrize(
    ("service", "index"), [("serving", 0), ("registry", 1), ("registry", -1), ("trainer", 0)]
)
def test_a_process_that_is_not_run_is_refused_with_those_that_are(service: str, index: int) -> None:
    with pytest.raises(
        UnknownService, match=f"no {service}-{index}, only registry-0, feature_store-0, feature_store-1$"
    ):
        a_wiring().address(service, index)
