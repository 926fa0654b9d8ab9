"""P4: with everything else down, also after a restart, serving answers with the features it has."""

from collections.abc import Callable
from contextlib import suppress
from typing import Any

import pytest
from trimtab_runtime.clock import iso
from trimtab_runtime.errors import Unavailable
from trimtab_runtime.testing import eventually
from trimtab_stack.stack import Stack

pytestmark = [pytest.mark.real, pytest.mark.timeout(240)]


async def test_serving_restarted_with_all_else_down_still_answers_features_included(
    make_world: Callable[..., Any], tmp_path_factory: pytest.TempPathFactory
) -> None:
    with Stack(tmp_path_factory.mktemp("alone"), fsync=False) as stack:
        async with make_world("alone", stack=stack) as world:
            await world.backfill(24)
            learned_ms = world.now_ms
            await world.first_version()
            await world.live(2)
            # As of then: of what is newer than a second, a crash may take the copy, for Kafka still has it.
            row = {"id": "last", "at": iso(learned_ms), "road": "a", "x": 1.5}
            before = await world.trimtab.predict(world.name, [row])

            for service in ("monitoring", "registry", "trainer", "feature_store", "ingestion"):
                stack.kill_service(service)
            stack.kafka.kill()
            stack.postgres.kill()
            during = await world.trimtab.predict(world.name, [row])
            stack.kill_service("serving")
            stack.start_service("serving")

            async def answers() -> Any:
                with suppress(Unavailable):  # the client's channel takes a moment to find the new process
                    return await world.trimtab.predict(world.name, [row])

            after = await eventually(answers, what="an answer after the restart")

            unknown_road = {**row, "road": "never seen"}
            other = await world.trimtab.predict(world.name, [unknown_road])

    assert list(before.predictions) == list(during.predictions) == list(after.predictions)
    assert list(after.versions) == [1]
    assert list(other.predictions) != list(after.predictions)
