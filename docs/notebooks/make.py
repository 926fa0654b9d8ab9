"""Executes the notebooks beside this file, and keeps what they answer: `make notebook`.

They speak to a Trimtab of their own, in which a small made-up world has been lived:
two days of questions and truths, some rows that were refused, and two runs.
"""

import asyncio
import json
import tempfile
from pathlib import Path

import nbclient
import nbformat
from traitlets.config import Config
from trimtab.finding import addresses
from trimtab.testing import World, living
from trimtab_contracts import topics
from trimtab_runtime.clock import iso
from trimtab_stack.environment import inherited
from trimtab_stack.stack import Stack

HERE = Path(__file__).parent
NAME = "roads"


async def live(stack: Stack) -> None:
    """Have something that a notebook can ask about."""
    # The second candidate is refused, so that nothing is on trial when the notebook looks.
    gates = "[{metric: mae, versus: champion, better_by: 0.2}]"
    servers = stack.environ["TRIMTAB_KAFKA_SERVERS"]
    async with living(NAME, servers, addresses(stack.environ), gates=gates) as world:
        await world.backfill(36)
        await world.first_version()
        await send_rubbish(world)
        await world.live(12)
        command = await world.trimtab.train(NAME, reason="again", actor="ann", as_of_ms=world.now_ms)
        await world.ended(command)
        for stream in world.replay.streams:
            await world.watermarks.wait("archive", stream.source, world.now_ms)


async def send_rubbish(world: World) -> None:
    """Send rows that the contract refuses."""
    at = iso(world.now_ms + 1)
    for number, x in enumerate([1e9, -1e9, "much"]):
        row = {"id": f"bad-{number}", "at": at, "road": "a", "x": x}
        await world.producer.send_and_wait(
            topics.RAW.named(f"{NAME}-asks").name,
            json.dumps(row).encode(),
            key=row["id"].encode(),
            headers=[("ce_arrivedat", at.encode())],
        )


def execute(path: Path, environ: dict[str, str]) -> None:
    """Run a notebook's cells from the first to the last, and write it with their outputs."""
    notebook = nbformat.read(path, as_version=4)
    unseen = Config({"KernelManager": {"transport": "ipc"}})
    client = nbclient.NotebookClient(notebook, timeout=120, record_timing=False, config=unseen)
    client.execute(env=environ)
    notebook.metadata["kernelspec"] = {"display_name": "Python 3", "language": "python", "name": "python3"}
    nbformat.write(notebook, path)


def main() -> None:
    """Start, live, execute."""
    with tempfile.TemporaryDirectory() as folder, Stack(Path(folder), fsync=False) as stack:
        asyncio.run(live(stack))
        for path in sorted(HERE.glob("*.ipynb")):
            execute(path, inherited() | dict(stack.environ))
            print(f"executed {path.name}")


if __name__ == "__main__":
    main()
