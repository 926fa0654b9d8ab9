"""`trimtab model ab | trial`: test versions beside the champion, end it, and see how they stand."""

from typing import Annotated, Any

import typer
from trimtab_contracts.monitoring.v1.monitoring_pb2 import Trial
from trimtab_contracts.registry.v1.registry_pb2 import Deployment
from trimtab_runtime.clock import from_timestamp, iso
from trimtab_runtime.errors import Rejected

from trimtab.cli.session import HOME, Directory, Json, actor, ask, console, plain, print_json, show


def ab(
    model: str,
    versions: Annotated[
        list[int] | None, typer.Argument(help="What is tested beside the champion.", show_default=False)
    ] = None,
    shares: Annotated[
        str,
        typer.Option(help="Percent of the keys that each answers, like 30,30; the champion has the rest."),
    ] = "",
    end: Annotated[
        bool,
        typer.Option("--end", help="End what is on trial, a canary or a shadow too; the champion stays."),
    ] = False,
    comment: Annotated[str, typer.Option(help="Why, for the audit log.")] = "",
    directory: Directory = HOME,
    as_json: Json = False,
) -> None:
    """Begin an A/B test of VERSIONS, or --end it; the first that is shown to be better than the champion is promoted."""
    given, named = percents(shares), versions or []
    if end and (named or given):
        raise Rejected("--end takes no versions and no shares, for it ends all of the trial: leave them out")
    wanted = ask(
        directory,
        lambda trimtab: (
            trimtab.end_trial(model, actor=actor(), comment=comment)
            if end
            else trimtab.begin_test(model, named, given, actor=actor(), comment=comment)
        ),
    )
    if as_json:
        print_json(plain(wanted))
    elif end:
        console.print(
            f"{model}: the trial is over; version {wanted.champion.number} stays the champion",
            highlight=False,
        )
    else:
        _tell_begun(model, wanted)


def _tell_begun(model: str, wanted: Deployment) -> None:
    arms = [(arm.number, arm.share) for arm in wanted.rollout.arms] or [
        (wanted.challenger.number, wanted.rollout.share)
    ]
    named = ", ".join(f"version {number} ({share} %)" for number, share in arms)
    console.print(
        f"{model}: {named} beside version {wanted.champion.number}, the champion ({100 - wanted.rollout.share} %): "
        f"see `trimtab model trial {model}`",
        soft_wrap=True,
        highlight=False,
    )


def trial(model: str, directory: Directory = HOME, as_json: Json = False) -> None:
    """Show how the versions on trial stand beside the champion: what the judge knows now, with what certainty."""
    found = ask(directory, lambda trimtab: trimtab.trial(model))
    if as_json:
        print_json(plain(found))
        return
    show(
        rows(found), as_json=False, empty=f"no version of {model} is on trial: see `trimtab versions {model}`"
    )
    if found.arms:
        console.print(said(found), soft_wrap=True, highlight=False)
    for sentence in filter(None, (arm.foreseen for arm in found.arms)):
        console.print(sentence, highlight=False, markup=False, soft_wrap=True)
    if guarded := guardrails(found):
        show(guarded, as_json=False)
        console.print(
            f"A version leaves at {found.guardrail_needed:.0f} for a guardrail; no label is waited for.",
            highlight=False,
        )


def rows(found: Trial) -> list[dict[str, Any]]:
    """Return a line for the champion and each version on trial, as `trial` shows them; none, if none is on."""
    if not found.arms:
        return []
    of_champion = {
        "version": found.champion,
        "share": f"{100 - sum(arm.share for arm in found.arms)} %",
        "stands": "champion",
    }
    lines: list[dict[str, Any]] = [
        {
            "version": arm.version,
            "share": f"{arm.share} %",
            "rows": arm.rows,
            f"{found.metric} less": arm.mean_difference if arm.rows else None,
            "low": arm.low if arm.rows else None,
            "high": arm.high if arm.rows else None,
            "e better": arm.e_better if arm.rows else None,
            "e worse": arm.e_worse if arm.rows else None,
            "stands": _stands(arm),
        }
        for arm in found.arms
    ]
    return [{name: of_champion.get(name) for name in lines[0]}, *lines]


def guardrails(found: Trial) -> list[dict[str, Any]]:
    """Return a line for each guardrail of each version on trial, as `trial` shows them; none, before requests were looked at."""
    return [
        {
            "version": arm.version,
            "guardrail": f"slower than {rail.limit_ms:.3g} ms" if rail.limit_ms else rail.name,
            "requests": rail.requests,
            "it alone": rail.challenger_alone,
            "champion alone": rail.champion_alone,
            "allowed": f"{rail.allowed:.1%} more",
            "e beyond": rail.evidence,
        }
        for arm in found.arms
        for rail in arm.guardrails
    ]


def _stands(arm: Trial.Arm) -> str:
    if arm.left:
        return "has left"
    if not arm.rows:
        return "no labelled row yet"
    if arm.low > 0:
        return "better"
    return "worse" if arm.high < 0 else "cannot be told yet"


def said(found: Trial) -> str:
    """Return what the numbers of a trial promise, as a person reads it."""
    until = (
        f"; at {iso(from_timestamp(found.until))} (event time) the champion stays"
        if found.HasField("until")
        else ""
    )
    return (
        f"A version is promoted at {found.needed:.0f} for better, and leaves at {found.needed:.0f} for worse{until}. What is no better "
        f"is promoted with a chance of {found.alpha:.0%} at most; low and high hold for all versions at once with "
        f"{1 - found.alpha:.0%}, however often one looks."
    )


def percents(text: str) -> list[int]:
    """Return the shares that an option says.

    Raises:
        Rejected: they are none.
    """
    try:
        return [int(part) for part in text.split(",")] if text else []
    except ValueError:
        raise Rejected(
            f"--shares {text!r} are no whole percents: write one for each version, like 30,30"
        ) from None
