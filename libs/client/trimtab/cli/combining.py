"""`trimtab model combine`."""

from typing import Annotated

import typer
from trimtab_runtime.errors import Rejected

from trimtab.cli.session import HOME, Directory, Json, actor, ask
from trimtab.cli.watching import Wait, ordered


def combine(
    model: str,
    versions: Annotated[list[str], typer.Argument(help="Two or more: numbers, or what they are called.")],
    weights: Annotated[
        str, typer.Option(help="What each counts, in their order: 0.6,0.4. All count alike, if not given.")
    ] = "",
    comment: Annotated[str, typer.Option(help="Why, for the ledger.")] = "",
    wait: Wait = True,
    directory: Directory = HOME,
    as_json: Json = False,
) -> None:
    """Make one version of several of MODEL: it answers with the mean of theirs, and goes through gates and rollout as any other.

    Of classes the probabilities are averaged. It is judged by rows that are newer than what any of them was trained on.
    """
    counted = _weighed(versions, weights)
    command = ask(directory, lambda trimtab: trimtab.combine(model, counted, actor=actor(), comment=comment))
    ordered(directory, model, command, wait=wait, as_json=as_json)


def _weighed(versions: list[str], weights: str) -> dict[str, float]:
    if len(set(versions)) < max(2, len(versions)):
        raise Rejected(f"versions are {', '.join(versions)}: name two or more, each once")
    if not weights:
        return dict.fromkeys(versions, 1.0)
    try:
        numbers = [float(each) for each in weights.split(",")]
    except ValueError:
        raise Rejected(f"--weights {weights!r} is no list of numbers: write it like 0.6,0.4") from None
    if len(numbers) != len(versions):
        raise Rejected(f"--weights has {len(numbers)} for {len(versions)} versions: write one for each")
    return dict(zip(versions, numbers, strict=True))
