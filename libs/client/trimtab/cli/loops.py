"""`trimtab loop list | show`."""

from dataclasses import asdict
from typing import Annotated, Any

import typer
from trimtab_contracts.monitoring.v1.monitoring_pb2 import Loop
from trimtab_runtime.clock import from_timestamp, iso

from trimtab import delivery
from trimtab.cli.session import HOME, Directory, Json, about, ask, console, plain, print_json, show

app = typer.Typer(no_args_is_help=True)


@app.command("list")
def list_(
    model: Annotated[str, typer.Argument()] = "",
    summary: Annotated[
        bool, typer.Option("--summary", help="How soon, how often, how much in vain, and what it was worth.")
    ] = False,
    directory: Directory = HOME,
    as_json: Json = False,
) -> None:
    """List the loops of MODEL, or of all, oldest first; or sum them up."""
    found = ask(directory, lambda trimtab: trimtab.loops(model))
    if summary:
        figures = delivery.summary(found)
        show(
            [asdict(each) if as_json else _figures(each) for each in figures],
            as_json=as_json,
            empty="no loop yet: there is nothing to sum up",
        )
        return
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
        lines.append(f"  evidence  {loop.drift.report}, by `trimtab report {loop.model} --episode {loop.id}`")
    if len(loop.decisions) > 1:
        lines += [f"  policy    {_at(it.at)}  {it.cause}: {it.sentence}" for it in loop.decisions]
    elif loop.reason:
        lines.append(f"  policy    {loop.reason}")
    if loop.command_id:
        lines.append(f"  command   {loop.command_id}")
    if loop.run_id:
        lines.append(f"  run       {loop.run_id}" + (f" -> version {loop.version}" if loop.version else ""))
    lines += [f"  gate      {'passed' if gate.passed else 'REFUSED'}  {gate.sentence}" for gate in loop.gates]
    if loop.foreseen:
        lines.append(f"  foreseen  {loop.foreseen}")
    if loop.HasField("verdict"):
        lines.append(f"  verdict   {_at(loop.verdict.at)}  {loop.verdict.sentence}")
    if loop.HasField("cost"):
        lines.append(f"  cost      {_cost(loop)}")
    if loop.HasField("gain"):
        lines.append(f"  bought    {_bought(loop)}")
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


def _figures(each: delivery.Delivery) -> dict[str, Any]:
    return {
        "model": each.model,
        "loops": each.loops,
        "declined": each.declined,
        "dry runs": each.rehearsed,
        "commanded": each.commanded,
        "live": each.live,
        "live a month": "" if each.live_a_month is None else f"{each.live_a_month:.1f}",
        "drift to live": _length(each.lead_time_ms),
        "work": _length(each.work_ms),
        "in vain": _percent(each.failed_share),
        "taken back": _percent(each.rolled_back_share),
        "restored in": _length(each.restored_ms),
        "spent": _length(each.spent_ms),
        "saved": "" if each.saved is None else f"{_amount(each.saved)} ({each.metric})",
    }


def _cost(loop: Loop) -> str:
    cost = loop.cost
    told = [f"{cost.wall_seconds:,.1f} s"]
    if cost.HasField("cpu_seconds"):
        told[0] += f" ({cost.cpu_seconds:,.1f} s of computing)"
    if cost.rows:
        told.append(f"fitted to {cost.rows:,} rows")
    if cost.attempts > 1:
        told.append(f"in {cost.attempts} attempts")
    return ", ".join(told)


def _bought(loop: Loop) -> str:
    gain = loop.gain
    less = "less" if gain.a_row >= 0 else "more"
    surely = f", {gain.low:.3g} to {gain.high:.3g}" if gain.HasField("low") else ""
    by = (
        f"{gain.compared:,} rows that both answered"
        if gain.paired
        else f"its {gain.compared:,} labelled rows and the last of version {gain.before}, which are of another time"
    )
    total = f"{'saved' if gain.a_row >= 0 else 'lost'} {_amount(abs(delivery.saved(loop)))} over {gain.rows:,} predictions so far"
    return f"{abs(gain.a_row):.3g} {less} {gain.metric} a row than version {gain.before}{surely} (by {by}): {total}"


def _amount(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def _length(milliseconds: int | None) -> str:
    return "" if milliseconds is None else about(milliseconds)


def _percent(share: float | None) -> str:
    return "" if share is None else f"{share:.0%}"


def _at(stamp: Any) -> str:
    return iso(from_timestamp(stamp))[:16]
