"""`trimtab loop list | show`."""

from typing import Annotated, Any

import typer
from trimtab_contracts.monitoring.v1.monitoring_pb2 import Loop
from trimtab_runtime.clock import from_timestamp, iso

from trimtab.cli.session import HOME, Directory, Json, ask, console, plain, print_json, show

app = typer.Typer(no_args_is_help=True)


@app.command("list")
def list_(
    model: Annotated[str, typer.Argument()] = "", directory: Directory = HOME, as_json: Json = False
) -> None:
    """List the loops of MODEL, or of all, oldest first."""
    found = ask(directory, lambda trimtab: trimtab.loops(model))
    if as_json:
        print_json([plain(loop) for loop in found])
        return
    show(
        [_row(loop) for loop in found],
        as_json=False,
        empty="no loop yet: nothing has drifted, and nobody has ordered a run",
    )


@app.command("show")
def show_(id: str, directory: Directory = HOME, as_json: Json = False) -> None:
    """Tell the story of one loop."""
    loop = ask(directory, lambda trimtab: trimtab.loop(id))
    if as_json:
        print_json(plain(loop))
        return
    for line in story(loop):
        console.print(line, highlight=False, markup=False, soft_wrap=True)


def story(loop: Loop) -> list[str]:
    """Return a loop as the sentences in which one would tell it."""
    lines = [f"loop {loop.id} of {loop.model}: {loop.state}"]
    if loop.HasField("drift"):
        lines.append(f"  drift     {_at(loop.drift.at)}  {loop.drift.summary}")
        lines.append(f"  evidence  {loop.drift.report}")
    if loop.reason:
        lines.append(f"  policy    {loop.reason}")
    if loop.command_id:
        lines.append(f"  command   {loop.command_id}")
    if loop.run_id:
        lines.append(f"  run       {loop.run_id}" + (f" -> version {loop.version}" if loop.version else ""))
    lines += [f"  gate      {'passed' if gate.passed else 'REFUSED'}  {gate.sentence}" for gate in loop.gates]
    if loop.HasField("verdict"):
        lines.append(f"  verdict   {_at(loop.verdict.at)}  {loop.verdict.sentence}")
    if loop.outcome:
        lines.append(f"  outcome   {loop.outcome}")
    steps = sorted((from_timestamp(at), name) for name, at in loop.steps.items())
    lines += [f"  {(at - steps[0][0]) / 1000:8.2f} s {name}" for at, name in steps]
    if loop.trace_id:
        lines.append(f"  trace     {loop.trace_id}")
    return lines


def _row(loop: Loop) -> dict[str, Any]:
    return {
        "loop": loop.id[:12],
        "model": loop.model,
        "trigger": loop.trigger,
        "drift at": _at(loop.drift_at) if loop.HasField("drift_at") else "",
        "state": loop.state,
        "version": loop.version or None,
        "what happened": loop.outcome or loop.reason or loop.drift.summary,
    }


def _at(stamp: Any) -> str:
    return iso(from_timestamp(stamp))[:16]
