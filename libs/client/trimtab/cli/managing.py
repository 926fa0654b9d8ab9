"""`trimtab history | diff | delete | lineage`, `trimtab model alias | tag | retire`, `trimtab artifacts gc`."""

import json
from typing import Annotated, Any

import typer
from rich.markup import escape
from rich.tree import Tree
from trimtab_contracts.registry.v1.registry_pb2 import Resource
from trimtab_core import evolution
from trimtab_runtime.clock import from_timestamp, iso
from trimtab_runtime.errors import Rejected

from trimtab.cli.session import HOME, Directory, Json, actor, ask, console, plain, print_json, show
from trimtab.managing import document, place
from trimtab.tracing import Branch, trace

artifacts = typer.Typer(no_args_is_help=True)
Comment = Annotated[str, typer.Option(help="Why, for the audit log.")]
Spec = Annotated[str, typer.Argument(metavar="KIND/NAME", help="Such as model/trip-minutes.")]


def add_to(app: typer.Typer, model: typer.Typer) -> None:
    """Add the commands to `app`, and those of a model's versions to `model`."""
    for command in (history, diff, delete, lineage):
        app.command()(command)
    model.command()(alias)
    model.command()(tag)
    model.command()(retire)
    app.add_typer(artifacts, name="artifacts", help="The files of versions.")


def history(spec: Spec, directory: Directory = HOME, as_json: Json = False) -> None:
    """List every generation of a spec: who applied it, when, and what it changed."""
    kind, name = place(spec)
    found = ask(directory, lambda it: it.generations(kind, name))
    if as_json:
        print_json([plain(each) for each in found])
        return
    rows = [
        {
            "generation": each.generation,
            "applied": iso(from_timestamp(each.applied_at)),
            "by": each.applied_by,
            "changed": _changed(before, each),
        }
        for before, each in zip([None, *found], found, strict=False)
    ]
    show(rows, as_json=False)


def _changed(before: Resource | None, after: Resource) -> str:
    if after.deleted:
        return "deleted"
    if before is None or before.deleted:
        return "created"
    places = [".".join(map(str, at)) for at, _, _ in evolution.differences(document(before), document(after))]
    return ", ".join(places) or "nothing: made anew"


def diff(
    spec: Spec,
    before: Annotated[int, typer.Argument(min=1, help="A generation.")],
    after: Annotated[int, typer.Argument(min=0, help="Another; the present one by default.")] = 0,
    directory: Directory = HOME,
    as_json: Json = False,
) -> None:
    """Show, key by key, how two generations of a spec differ."""
    kind, name = place(spec)

    async def both(trimtab: Any) -> tuple[Resource, Resource]:
        return await trimtab.resource(kind, name, before), await trimtab.resource(kind, name, after)

    left, right = ask(directory, both)
    rows = [
        {
            "key": ".".join(map(str, at)),
            f"generation {left.generation}": _shown(was),
            f"generation {right.generation}": _shown(now),
        }
        for at, was, now in evolution.differences(document(left), document(right))
    ]
    show(rows, as_json=as_json, empty="they are the same")


def delete(spec: Spec, comment: Comment = "", directory: Directory = HOME) -> None:
    """Take a spec away, if nothing needs it; its rows, versions and history stay."""
    kind, name = place(spec)
    gone = ask(directory, lambda it: it.delete(kind, name, actor=actor(), comment=comment))
    console.print(f"{kind} {name} is deleted; generation {gone.generation - 1} was the last", highlight=False)


def lineage(
    what: Annotated[
        str, typer.Argument(help="model/NAME, model/NAME@VERSION, run/ID, or dataset/TAG or its digest.")
    ],
    directory: Directory = HOME,
    as_json: Json = False,
) -> None:
    """Show what a model's versions were made of and what became of them, or what was made of a run or a dataset."""
    found = ask(directory, lambda it: trace(it, what))
    if as_json:
        print_json(found.plain())
        return
    console.print(_tree(found), highlight=False)


def _tree(branch: Branch, under: Tree | None = None) -> Tree:
    label = f"[bold]{escape(branch.what)}[/bold]" + (f" ({escape(branch.said)})" if branch.said else "")
    tree = Tree(label) if under is None else under.add(label)
    for each in branch.branches:
        _tree(each, tree)
    return tree


def alias(
    model: str,
    version: Annotated[int, typer.Argument(min=0, help="0 takes the alias away.")],
    name: str,
    comment: Comment = "",
    directory: Directory = HOME,
) -> None:
    """Call VERSION of MODEL by NAME, from now on it alone; `trimtab model versions MODEL@NAME` finds it."""
    before = ask(directory, lambda it: it.alias(model, name, version, actor=actor(), comment=comment))
    moved = f", and no longer version {before}" if before not in (0, version) else ""
    said = f"names version {version}{moved}" if version else f"names nothing; it named version {before}"
    console.print(f"{model}@{name} {said}", highlight=False)


def tag(
    model: str,
    version: int,
    tags: Annotated[list[str], typer.Argument(metavar="KEY=VALUE...", help="KEY= takes a tag off.")],
    comment: Comment = "",
    directory: Directory = HOME,
) -> None:
    """Put tags on VERSION of MODEL; one called pin keeps the version and its files."""
    pairs = dict(_pair(each) for each in tags)
    put = {key: value for key, value in pairs.items() if value}
    tagged = ask(
        directory,
        lambda it: it.tag_version(
            model, version, put, [key for key in pairs if key not in put], actor=actor(), comment=comment
        ),
    )
    held = ", ".join(f"{key}={value}" for key, value in sorted(tagged.tags.items()))
    console.print(f"{model} version {version}: {held or 'no tags'}", highlight=False)


def _pair(text: str) -> tuple[str, str]:
    key, found, value = text.partition("=")
    if not found:
        raise Rejected(f"{text!r} is no tag: write KEY=VALUE, or KEY= to take it off")
    return key, value


def retire(
    model: str,
    version: Annotated[
        int, typer.Argument(min=0, help="Without it, the whole model goes out of service.")
    ] = 0,
    comment: Comment = "",
    directory: Directory = HOME,
) -> None:
    """Let VERSION go for good, if nothing needs it; without VERSION, take MODEL out of service."""
    retired = ask(directory, lambda it: it.retire(model, version, actor=actor(), comment=comment))
    named = ", ".join(map(str, retired))
    if version:
        console.print(f"{model} version {named} is retired", highlight=False)
    else:
        console.print(f"{model} is out of service; retired with it: version {named}", highlight=False)


@artifacts.command()
def gc(
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would go, and when.")] = False,
    directory: Directory = HOME,
    as_json: Json = False,
) -> None:
    """Throw away the files of versions that nothing has needed for as long as they are kept.

    The registry does it by itself, now and again. A version is let go first, and its files go only after a grace.
    """
    found = ask(directory, lambda it: it.collect_artifacts(actor=actor(), dry_run=dry_run))
    if as_json:
        print_json(plain(found))
        return
    rows = [
        {
            "model": each.model,
            "version": each.number,
            "files": each.files,
            "MB": each.bytes / 1e6,
            "gone" if each.gone else "goes, at the earliest": iso(from_timestamp(each.at)),
        }
        for each in found.files
    ]
    nothing = f"nothing is older than {found.retention} and needed by nothing"
    show(rows, as_json=False, empty=nothing if dry_run else "nothing's time has come")
    if rows:
        total = sum(each.bytes for each in found.files) / 1e6
        console.print(f"{total:,.1f} MB {'would go' if dry_run else 'went'}", highlight=False)


def _shown(value: Any) -> str:
    return "" if value is None else json.dumps(value)
