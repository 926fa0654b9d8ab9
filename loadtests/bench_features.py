"""Features beside what else makes them: Quix Streams for streams, Feast for reads and joins, polars and DuckDB for joins.

Each part is measured beside its peers in alternating rounds of one run; the peers live in an environment of their own
(.venv-peers), in processes of their own. Without arguments all parts are run, with names only those.
"""

import asyncio
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import features_join
import features_online
import features_stream
import grpc
from stream import apply
from trimtab_stack.stack import Stack

PEERS = Path(__file__).parent.parent / ".venv-peers/bin/python"
PARTS = ("stream", "online", "join")
PACKAGES = ("feast", "quixstreams", "polars", "duckdb")


async def main(parts: set[str]) -> bool:
    """Measure, print the outcome, and return whether all claims hold."""
    claims: list[dict[str, Any]] = []
    details: dict[str, Any] = {"versions": versions()}
    with tempfile.TemporaryDirectory(prefix="trimtab-bench-") as name:
        directory = Path(name)
        if parts & {"stream", "online"}:
            services = dict.fromkeys(("registry", "ingestion", "feature_store"), 1)
            with Stack(directory / "stack", services, fsync=False) as stack:
                await apply(stack, features_stream.SPECS)
                if "stream" in parts:
                    claimed, details["stream"] = await features_stream.versus_quix(stack, PEERS, directory)
                    claims += claimed
                if "online" in parts:
                    claimed, details["online"] = await features_online.versus_feast(stack, PEERS, directory)
                    claims += claimed
        if "join" in parts:
            claimed, details["join"] = features_join.versus_peers(PEERS, directory)
            claims += claimed
    print(json.dumps({"bench": "features", "claims": claims, "details": details}))
    return all(map(holds, claims))


def holds(claim: dict[str, Any]) -> bool:
    """Return whether a claim's value is within its bound."""
    return bool(
        claim.get("at_least", claim["value"]) <= claim["value"] <= claim.get("at_most", claim["value"])
    )


def versions() -> dict[str, str]:
    """Return the versions that a figure belongs to: of grpcio, and of the peers."""
    code = "import json; from importlib.metadata import version; "
    code += f"print(json.dumps({{name: version(name) for name in {PACKAGES}}}))"
    found = subprocess.run([str(PEERS), "-c", code], capture_output=True, text=True, check=True)
    return {"grpcio": grpc.__version__, **json.loads(found.stdout)}


if __name__ == "__main__":
    asked = set(sys.argv[1:]) or set(PARTS)
    if unknown := asked - set(PARTS):
        sys.exit(f"there is no part {', '.join(sorted(unknown))}: name some of {', '.join(PARTS)}")
    if not PEERS.exists():
        sys.exit("the peers are not installed: run `make bench-features`, which installs them")
    sys.exit(0 if asyncio.run(main(asked)) else 1)
