"""What the demo leaves behind: the story in the terminal, and `summary.json`."""

from collections.abc import Mapping, Sequence
from typing import Any

from trimtab_contracts.features.v1.features_pb2 import AuditSkewResponse
from trimtab_contracts.monitoring.v1.monitoring_pb2 import Loop, Verdict
from trimtab_runtime.clock import from_timestamp, iso

from trimtab.cli.loops import story
from trimtab.demo.scoreboard import METRIC, Score, Scoreboard
from trimtab.replay import Tally


def summary(
    tally: Tally,
    board: Scoreboard,
    loops: Sequence[Loop],
    skew: AuditSkewResponse,
    span: tuple[int, int],
    versions: Mapping[str, str],
) -> dict[str, Any]:
    """Return the demo's outcome as plain data.

    The first drift of `after_first_drift` is the first that was answered with a command, where one was.
    """
    drifted = [loop for loop in loops if loop.HasField("drift")]
    answered = [loop for loop in drifted if loop.command_id] or drifted
    first = min((from_timestamp(loop.drift.at) for loop in answered), default=None)
    error = {"metric": METRIC, **_errors(board.score(*span))}
    error["after_first_drift"] = _errors(board.score(first, span[1]) if first is not None else None)
    return {
        "events": tally.events,
        "predictions": tally.predictions,
        "failed_requests": tally.failed_requests,
        "retrains": sum(bool(loop.run_id) for loop in drifted),
        "loops": [_loop(loop) for loop in drifted],
        "error": error,
        "skew": {"rows": skew.rows, "mismatched": skew.mismatched},
        "kafka": versions.get("kafka", "external"),
        "postgres": versions.get("postgres", "external"),
    }


def tell(outcome: Mapping[str, Any], loops: Sequence[Loop]) -> list[str]:
    """Return the story's closing lines."""
    lines = [""]
    drifted = [loop for loop in loops if loop.HasField("drift")]
    for loop in drifted:
        lines += [*story(loop), ""] if loop.command_id else [*_seen_only(loop), ""]
    answered, failed = outcome["predictions"], outcome["failed_requests"]
    lines.append(
        f"{outcome['events']:,} events in, {answered:,} predictions answered, {failed} requests failed."
    )
    skew = outcome["skew"]
    lines.append(
        f"The features of {skew['rows']:,} predictions were recomputed from the archive: {skew['mismatched']} of them "
        "had been served others."
    )
    after = outcome["error"]["after_first_drift"]
    if after["as_served"] is not None:
        spared = after["never_retrained"] - after["as_served"]
        lines.append(
            f"Since the drift the error was {after['as_served']:.2f} minutes as served; the first version would have "
            f"been wrong by {after['never_retrained']:.2f}. The retraining was worth {spared:.2f} minutes a trip."
        )
    return lines


def _seen_only(loop: Loop) -> list[str]:
    """Return in short the story of a drift that was not answered with a command."""
    at, answer = iso(from_timestamp(loop.drift.at))[:16], loop.reason or loop.outcome
    return [f"{at}  {loop.drift.summary}", f"  {loop.state}: {answer}"]


def _errors(score: Score | None) -> dict[str, Any]:
    if score is None:
        return {"never_retrained": None, "as_served": None}
    return {"never_retrained": round(score.never_retrained, 4), "as_served": round(score.as_served, 4)}


def _loop(loop: Loop) -> dict[str, Any]:
    """Return a loop as plain data; `drift_at` is event time, the world's, and the other times are the wall clock's."""
    steps = {name: from_timestamp(at) for name, at in loop.steps.items()}
    begin, live = steps.get("triggered"), steps.get("live")
    return {
        "id": loop.id,
        "model": loop.model,
        "trigger": loop.trigger,
        "state": loop.state,
        "drift_at": iso(from_timestamp(loop.drift.at)),
        "triggered_at": iso(begin) if begin else None,
        "command_at": iso(steps["commanded"]) if "commanded" in steps else None,
        "run": loop.run_id or None,
        "version": loop.version or None,
        "gates": [
            {"gate": gate.gate, "passed": gate.passed, "sentence": gate.sentence} for gate in loop.gates
        ],
        "verdict": Verdict.Outcome.Name(loop.verdict.outcome).lower() if loop.HasField("verdict") else None,
        "live_at": iso(live) if live else None,
        "seconds": round((live - begin) / 1000, 3) if live and begin else None,
        "trace_id": loop.trace_id,
        "report": loop.drift.report,
        "outcome": loop.outcome or loop.reason,
    }
