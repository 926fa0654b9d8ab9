"""`trimtab deadletter list | show | replay`."""

import asyncio
import base64
import json
from collections import Counter
from collections.abc import Sequence
from typing import Annotated, Any

import typer
from trimtab_contracts.ingestion.v1.ingestion_pb2 import DeadLetter
from trimtab_runtime.clock import from_timestamp, iso
from trimtab_runtime.errors import NotFound, Rejected

from trimtab import deadletters
from trimtab.cli.session import (
    HOME,
    Directory,
    Json,
    console,
    environ,
    moment,
    plain,
    print_json,
    show,
    wanted,
)
from trimtab.deadletters import REPLAYED, Found, Query

app = typer.Typer(no_args_is_help=True)

_Source = Annotated[str, typer.Option(help="Only those of this source.")]
_Reason = Annotated[str, typer.Option(help="Only those with this reason code, such as out_of_range.")]
_Field = Annotated[str, typer.Option(help="Only those in which this field is at fault.")]
_HEX_BYTES = 64


@app.command("list")
def list_(
    source: _Source = "",
    reason: _Reason = "",
    field: _Field = "",
    since: Annotated[
        str, typer.Option(help="Only what was refused since this time, such as 2020-03-15T12:00:00Z.")
    ] = "",
    limit: Annotated[int, typer.Option(min=0, help="Show so many, the newest; 0 for all.")] = 50,
    directory: Directory = HOME,
    as_json: Json = False,
) -> None:
    """List dead letters, the newest last."""
    query = Query(source, reason, field, moment("--since", since) if since else None)
    [servers] = wanted(environ(directory), "TRIMTAB_KAFKA_SERVERS")
    found = asyncio.run(deadletters.find(servers, query))
    shown = found[-limit:] if limit else found
    if as_json:
        print_json([_as_json(each) for each in shown])
        return
    show([_row(each) for each in shown], as_json=False, empty="no dead letter: nothing was refused")
    if len(shown) < len(found):
        console.print(
            f"and {len(found) - len(shown)} older: --limit 0 shows all; --source, --reason and --field narrow"
        )


@app.command("show")
def show_(id: str, directory: Directory = HOME, as_json: Json = False) -> None:
    """Tell what was wrong with one dead letter, and how to replay it."""
    [servers] = wanted(environ(directory), "TRIMTAB_KAFKA_SERVERS")
    found = asyncio.run(deadletters.find(servers, Query(), [id]))
    if not found:
        raise NotFound(f"there is no dead letter {id!r}: look at `trimtab deadletter list`")
    if as_json:
        print_json(_as_json(found[0]))
        return
    for line in told(found[0]):
        console.print(line, markup=False, highlight=False, soft_wrap=True)


@app.command()
def replay(
    ids: Annotated[list[str] | None, typer.Argument(metavar="[ID]...")] = None,
    source: _Source = "",
    reason: _Reason = "",
    field: _Field = "",
    every: Annotated[bool, typer.Option("--all", help="All that can be replayed.")] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Say what would be sent, and send nothing.")
    ] = False,
    directory: Directory = HOME,
    as_json: Json = False,
) -> None:
    """Send dead letters' rows again, once their cause is mended; each is let in once, however often it is sent."""
    ids = ids or []
    if not (ids or source or reason or field or every):
        raise Rejected("nothing is named: give ids, --source, --reason or --field, or --all")
    if every and (ids or source or reason or field):
        raise Rejected("--all stands beside what narrows it: give one or the other")
    [servers] = wanted(environ(directory), "TRIMTAB_KAFKA_SERVERS")
    found = asyncio.run(deadletters.find(servers, Query(source, reason, field), ids))
    deadletters.chosen(found, ids)
    refused = [said for each in found if (said := deadletters.why_not(each.letter))]
    settled = [each.letter.id for each in found if each.state == REPLAYED]
    letters = [
        each.letter for each in found if each.state != REPLAYED and not deadletters.why_not(each.letter)
    ]
    if letters and not dry_run:
        asyncio.run(deadletters.replay(servers, letters))
    if as_json:
        sent = [letter.id for letter in letters]
        did = "would_send" if dry_run else "sent"
        print_json({did: sent, "replayed_before": settled, "not_replayable": refused})
        return
    for line in _outcome(letters, settled, refused, dry_run):
        console.print(line, markup=False, highlight=False, soft_wrap=True)


def told(found: Found) -> list[str]:
    """Return a letter as the lines in which one would tell it."""
    letter = found.letter
    lines = [
        f"dead letter {_printable(letter.id)} of {_printable(letter.source)}: {found.state}",
        f"  arrived   {iso(from_timestamp(letter.arrived_at))}",
        f"  refused   {iso(found.refused_ms)}",
        f"  key       {_bytes(letter.key)}",
    ]
    for reason in letter.reasons:
        lines.append(f"  reason    {reason.code}: {_printable(reason.message)}")
        if reason.field:
            lines.append(f"            field {_printable(reason.field)}, value {_printable(reason.value)}")
    lines.append(f"  payload   {len(letter.payload)} bytes")
    lines += [f"    {line}" for line in _payload(letter.payload)]
    if said := deadletters.why_not(letter):
        lines.append(said)
    elif found.state == REPLAYED:
        lines.append("It has been replayed: it is an event of the same id, or repeats one.")
    else:
        lines.append(f"Once its cause is mended: trimtab deadletter replay {_printable(letter.id)}")
    return lines


def _outcome(
    letters: Sequence[DeadLetter], settled: Sequence[str], refused: Sequence[str], dry_run: bool
) -> list[str]:
    did = "would send" if dry_run else "sent"
    to = Counter(letter.topic for letter in letters)
    lines = [f"{did} {count} to {topic}" for topic, count in sorted(to.items())] or ["nothing to send"]
    if settled:
        lines.append(f"{len(settled)} had been replayed before: nothing more to do for them")
    if refused:
        lines.append(f"{len(refused)} cannot be replayed: {_printable(refused[0])}")
    if letters and not dry_run:
        lines.append("What is refused again is told by `trimtab deadletter list`.")
    return lines


def _row(found: Found) -> dict[str, Any]:
    letter = found.letter
    return {
        "id": letter.id,
        "source": letter.source,
        "refused at": iso(found.refused_ms),
        "reason": "\n".join(reason.code for reason in letter.reasons),
        "field": "\n".join(_printable(reason.field) or "-" for reason in letter.reasons),
        "value": "\n".join(_short(_printable(reason.value)) or "-" for reason in letter.reasons),
        "state": found.state,
    }


def _as_json(found: Found) -> dict[str, Any]:
    """Return the letter's JSON mapping, with its state, and its payload as what it is."""
    told = plain(found.letter) | {"state": found.state, "refused_at": iso(found.refused_ms)}
    payload = _row_of(found.letter.payload)
    return told | ({} if payload is None else {"row": payload})


def _payload(payload: bytes) -> list[str]:
    row = _row_of(payload)
    if row is not None:
        return json.dumps(row, indent=2).splitlines()
    lines = [f"no JSON; hex     {payload[:_HEX_BYTES].hex(' ')}{' …' if len(payload) > _HEX_BYTES else ''}"]
    return [*lines, f"no JSON; base64  {base64.b64encode(payload).decode()}"] if payload else ["nothing"]


def _row_of(payload: bytes) -> Any:
    try:
        return json.loads(payload, parse_constant=_no_json)
    except (ValueError, RecursionError):
        return None


def _no_json(name: str) -> None:
    raise ValueError(f"{name} is no JSON")


def _bytes(value: bytes) -> str:
    return _printable(value.decode(errors="replace")) or "-"


def _short(text: str) -> str:
    return text if len(text) <= 40 else f"{text[:39]}…"


def _printable(text: str) -> str:
    """Return a user's text without what would steer a terminal."""
    return "".join(each if each.isprintable() else "\N{REPLACEMENT CHARACTER}" for each in text)
