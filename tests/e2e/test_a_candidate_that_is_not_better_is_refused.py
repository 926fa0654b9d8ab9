"""Gates hold: a candidate has to earn its place. And what came of it can be looked at from a notebook."""

import ast
import inspect
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from trimtab.audit import told, verify
from trimtab_stack.stack import Stack

pytestmark = [pytest.mark.real, pytest.mark.timeout(300)]
NOTEBOOK = json.loads((Path(__file__).parents[2] / "docs/notebooks/a_session.ipynb").read_text())


async def test_a_candidate_that_is_not_better_is_refused_and_the_champion_stays(
    make_world: Callable[..., Any], whole: Stack, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with make_world("refused", gates="[{metric: mae, versus: champion, better_by: 0.2}]") as world:
        await world.backfill(48)
        await world.first_version()
        await world.live(12)

        command = await world.trimtab.train(world.name, reason="try", actor="test", as_of_ms=world.now_ms)
        loop = await world.ended(command)

        assert loop.state == "refused"
        assert [gate.passed for gate in loop.gates] == [False]
        assert "mae" in loop.gates[0].sentence
        assert (await world.trimtab.deployment(world.name)).champion.number == 1
        actions = [entry.action for entry in await world.trimtab.audit(f"Model/{world.name}")]
        assert any("refuse" in action for action in actions), actions

        found = await verify(world.trimtab.read_audit(), await told(world.servers))
        assert (found.fault, found.told > 0) == ("", True)
        for name, value in whole.environ.items():
            monkeypatch.setenv(name, value)
        seen = await executed(NOTEBOOK, NAME=world.name)
        assert seen["found"].total == world.made
        assert seen["rows"].digest == seen["newest"].digest
        assert seen["written"] == ["page.html", "page.json"]


async def executed(notebook: dict[str, Any], **parameters: Any) -> dict[str, Any]:
    """Run a notebook's cells, but for the one that states its parameters, and return what they have named."""
    names: dict[str, Any] = dict(parameters)
    for number, cell in enumerate(notebook["cells"]):
        if cell["cell_type"] == "code" and "parameters" not in cell["metadata"].get("tags", []):
            text = "".join(cell["source"])
            code = compile(text, f"cell {number}", "exec", ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
            if inspect.isawaitable(made := eval(code, names)):
                await made
    return names
