"""`trimtab report`."""

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer
from trimtab_contracts.registry.v1.registry_pb2 import Deployment, VersionRef
from trimtab_core.features import FeatureFault, names_read
from trimtab_runtime.clock import from_timestamp, iso
from trimtab_runtime.errors import NotFound, Rejected

from trimtab import deadletters, metrics, profile
from trimtab.card import Card
from trimtab.cli import modelreport
from trimtab.cli.lineage import Lineage
from trimtab.cli.session import (
    HOME,
    Directory,
    Json,
    ask,
    console,
    environ,
    moment,
    plain,
    print_json,
    wanted,
)
from trimtab.client import Trimtab
from trimtab.datasets import Events
from trimtab.metrics import DAY_MS
from trimtab.profile import Profile
from trimtab.roles import serving

_AUDITED = 1_000
"""Entries of the audit log in which the generations of a contract are looked for."""


@dataclass(frozen=True, slots=True)
class Span:
    """Event times of one page: [start, end)."""

    called: str
    start_ms: int
    end_ms: int


def add_to(app: typer.Typer) -> None:
    """Add the command to `app`."""
    app.command()(report)


def report(
    model: Annotated[str, typer.Argument(help="A model that is live.")] = "",
    source: Annotated[str, typer.Option(help="In the place of a model: whose data.")] = "",
    day: Annotated[
        list[str] | None,
        typer.Option(
            help="Of a source: a day (yyyy-mm-dd, UTC), once or several times; the newest by default."
        ),
    ] = None,
    since: Annotated[
        str,
        typer.Option(
            "--from", help="Of a source one page, from this day on; of a model from this day or time on."
        ),
    ] = "",
    until: Annotated[str, typer.Option("--until", "--to", help="And before this one.")] = "",
    rows: Annotated[
        int,
        typer.Option(
            min=1, help="Of a model the newest so many rows; of a source a fair sample of so many a page."
        ),
    ] = 10_000,
    episode: Annotated[
        str,
        typer.Option(help="Of a model: the report that was made when this episode of drift, or loop, began."),
    ] = "",
    out: Annotated[
        Path, typer.Option("-o", "--out", help="The folder to write to; of a model also the file, x.html.")
    ] = Path("reports"),
    card: Annotated[
        bool, typer.Option("--card", help="Of a source: write its data card alone, which takes no Evidently.")
    ] = False,
    directory: Directory = HOME,
    as_json: Json = False,
) -> None:
    """Write what MODEL's newest rows are like beside what it was trained on; or what a source's data are like.

    Of a model: Evidently's report, as HTML and JSON. Of a source: a page and its numbers for each day, and its data card.
    """
    if bool(model) == bool(source):
        raise Rejected("a report is of a model or of a source: name MODEL, or --source SOURCE")
    if model:
        if card or day:
            raise Rejected(
                "--card and --day are for a source: leave them out, or name times with --from and --to"
            )
        modelreport.report(
            directory, model, out, since=since, until=until, rows=rows, episode=episode, as_json=as_json
        )
        return
    if episode:
        raise Rejected(f"--episode {episode!r} is of a model: name MODEL in the place of --source")
    if card and (day or since or until):
        raise Rejected("--card stands beside a time, and a card is of all times: leave out one or the other")
    pages = spans(day or [], since, until)
    if not card:
        profile.needs_evidently()
    [servers] = wanted(environ(directory), "TRIMTAB_KAFKA_SERVERS")

    async def found(trimtab: Trimtab) -> tuple[Card, list[Profile]]:
        made = await _card(trimtab, servers, source)
        return made, [] if card else await _profiles(trimtab, made, pages, rows)

    made, profiles = ask(directory, found)
    files = [out / f"{source}-{each.called.replace(' to ', '_')}.html" for each in profiles]
    for each, file in zip(profiles, files, strict=True):
        each.write(file)
    files += _write(made, out)
    if as_json:
        numbers = [each.numbers() for each in profiles]
        print_json({"files": list(map(str, files)), "card": made.described(), "profiles": numbers})
        return
    for file in files:
        console.print(f"wrote {file}", markup=False, highlight=False, soft_wrap=True)


def spans(days: Sequence[str], since: str, until: str) -> list[Span]:
    """Return what pages are asked for; none where it is the newest day's.

    Raises:
        Rejected: the options name no days, or contradict each other.
    """
    if bool(since) != bool(until) or (days and since):
        raise Rejected(
            "--from and --until make one page, and --day a page each: give --day, or both of the others"
        )
    if since:
        start_ms, end_ms = _midnight("--from", since), _midnight("--until", until)
        if start_ms >= end_ms:
            raise Rejected(f"--until {until!r} is not after --from {since!r}: name a later day")
        return [Span(f"{since} to {until}", start_ms, end_ms)]
    return [_day(_midnight("--day", each)) for each in dict.fromkeys(days)]


def _midnight(option: str, day: str) -> int:
    if not re.fullmatch(r"\d{4}-\d\d-\d\d", day):
        raise Rejected(f"{option} {day!r} is no day: write one such as 2020-03-18")
    return moment(option, day)


def _day(start_ms: int) -> Span:
    return Span(iso(start_ms)[:10], start_ms, start_ms + DAY_MS)


async def _profiles(trimtab: Trimtab, card: Card, spans: Sequence[Span], rows: int) -> list[Profile]:
    """Return what is to be drawn; of the newest archived day where no times are given."""
    name, archive = card.source.name, card.archive
    if archive.first_ms is None or archive.last_ms is None:
        raise NotFound(
            f"no event of source {name!r} is archived: send it rows, or look at `trimtab deadletter list`"
        )
    found = []
    for span in spans or [_day(archive.last_ms // DAY_MS * DAY_MS)]:
        events: Events = await trimtab.events(name, span.start_ms, span.end_ms, most_rows=rows)
        if not events.total:
            raise NotFound(
                f"no event of source {name!r} is archived of {span.called}: there are some from {iso(archive.first_ms)} "
                f"to {iso(archive.last_ms)}"
            )
        days = [day for day in card.days if iso(span.start_ms)[:10] <= day.day < iso(span.end_ms)[:10]]
        found.append(profile.profile(card.source, events, called=span.called, days=days))
    return found


async def _card(trimtab: Trimtab, servers: str, name: str) -> Card:
    """Return all that is known of a source.

    Raises:
        UnknownSource: there is none of the name.
    """
    source, everything = await trimtab.source(name), await trimtab.resources()
    lineage = Lineage(everything)
    views, models = lineage.consumers(name)
    fresh = {row["view"]: row for row in await metrics.freshness(servers)}
    letters = await deadletters.find(servers, deadletters.Query(source=name))
    return Card(
        source=source,
        applied=[
            {
                "generation": plain(entry.details)["generation"],
                "at": iso(from_timestamp(entry.at)),
                "by": entry.actor,
            }
            for entry in await trimtab.audit(source.key, limit=_AUDITED)
            if "generation" in entry.details
        ],
        majors=[
            each.name
            for each in everything
            if each.kind == "Source" and each.name.partition(".")[0] == source.metadata.name
        ],
        archive=await trimtab.events(name, most_rows=0),
        days=await metrics.quality(servers, name),
        letters=dict(Counter(each.state for each in letters)),
        views=[
            {
                **{what: row[what] for what in ("view", "entity", "features", "models")},
                **{what: fresh.get(row["view"], {}).get(what) for what in ("p50 ms", "p99 ms")},
            }
            for row in lineage.rows("FeatureView")
            if row["view"] in views
        ],
        models=[
            {
                "model": model,
                "takes it for": "; ".join(lineage.uses(model, name)),
                **live_versions(await trimtab.deployment(model), views),
            }
            for model in models
        ],
    )


def live_versions(deployment: Deployment, views: Sequence[str]) -> dict[str, Any]:
    """Return the versions of a model that answer now, each with the features that it takes from some views."""
    found = serving(deployment)
    return {
        asked: "; ".join(_version(each, views) for role, each in found.items() if role.startswith(asked))
        or None
        for asked in ("champion", "challenger")
    }


def _version(version: VersionRef, views: Sequence[str]) -> str:
    taken = {
        name for text in version.features for name in _names(text, views) if name.partition(".")[0] in views
    }
    return f"version {version.number}" + (f", with {', '.join(sorted(taken))}" if taken else "")


def _names(feature: str, views: Sequence[str]) -> set[str]:
    try:
        return names_read(feature, views)
    except FeatureFault:  # of a version whose feature means nothing any more
        return set()


def _write(card: Card, out: Path) -> list[Path]:
    """Write a card in both forms, with links to the profiles that lie beside it."""
    name = card.source.name
    profiles = {
        match[1].replace("_", " to "): file.name
        for file in out.glob(f"{name}-*.html")
        if (match := re.fullmatch(rf"{re.escape(name)}-([\d_-]+)\.html", file.name))
    }
    page = card.page(profiles)
    return [file for form in ("md", "html") for file in page.write(out / f"{name}.{form}")]
