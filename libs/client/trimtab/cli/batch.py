"""`trimtab predict MODEL FILE -o FILE`."""

import asyncio
import hashlib
import time
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import typer
from trimtab_runtime.errors import Rejected
from trimtab_stack.locks import locked

from trimtab.batch import Part, Scorer, answers_of, chunks, form_of, schema_of
from trimtab.cli.ingest import Bar, aside
from trimtab.cli.session import ask, print_json, show
from trimtab.client import Trimtab
from trimtab.files import File
from trimtab.ingest import patiently
from trimtab.typed import Reading, Typing

_SHOWN = 20


def predict_file(
    directory: Path,
    model: str,
    file: File,
    output: Path,
    *,
    version: int,
    reading: Mapping[str, Any],
    patience_s: float,
    as_json: bool,
) -> None:
    """Answer all rows of a file; end with 1 if some could not be read."""
    form_of(output)
    if file.is_stdin:
        raise Rejected(
            "rows on standard input cannot be gone on with: write them to a file first, and name that"
        )
    named = hashlib.sha256(str(output.absolute()).encode()).hexdigest()[:16]
    try:
        part = ask(
            directory,
            lambda it: _predict(
                it,
                model,
                file,
                output,
                directory / "predict" / f"{named}.lock",
                version=version,
                reading=reading,
                patience_s=patience_s,
            ),
        )
    except BaseException as error:
        if not isinstance(error, Rejected):
            aside.print("The same command again goes on where this one ended.")
        raise
    for sentence in part.found:
        aside.print(sentence, soft_wrap=True, highlight=False, markup=False)
    if part.refused > len(part.found):
        aside.print(
            f"and {part.refused - len(part.found):,} more: the column `error` of {output} has them all"
        )
    done = {
        "file": file.path,
        "output": str(output),
        "version": part.version,
        "rows": part.rows,
        "answered": part.rows - part.refused,
        "refused": part.refused,
    }
    if as_json:
        print_json(done)
    else:
        show([done], as_json=False)
    if part.refused:
        raise typer.Exit(1)


async def _predict(
    trimtab: Trimtab,
    name: str,
    file: File,
    output: Path,
    lock: Path,
    *,
    version: int,
    reading: Mapping[str, Any],
    patience_s: float,
) -> Part:
    model = await trimtab.model(name)
    source = await trimtab.source(model.spec.source)
    typing = Typing(source.spec, Reading(**reading, decimal_comma=file.decimal_comma))
    with ExitStack() as stack:
        if not stack.enter_context(locked(lock, within=0.0)):
            raise Rejected(f"{output} is being written by another command: wait for that")
        with aside.status(f"taking the digest of {file.path}"):
            digest = await asyncio.to_thread(file.digest)
        asked = {"file": digest, "model": name, "version": version, "reading": dict(reading)}
        part = Part.begin(output, asked)
        scorer = await Scorer.of(trimtab, model, source, part.version or version)
        part.version = scorer.number
        with Bar(file, part.rows, None) as bar:
            for chunk in chunks(file.rows(), scorer, typing, part.rows):
                good = [row for row in chunk if not row.fault]
                said = await patiently(
                    lambda: scorer.answer(good),  # noqa: B023 - awaited before the next
                    patience_s,
                    lambda waits: bar.move(part.rows, waits),
                    sleep=asyncio.sleep,
                    monotonic=time.monotonic,
                )
                faults = [f"row {row.number}: {row.fault}" for row in chunk if row.fault]
                part.refused += len(faults)
                part.found += faults[: _SHOWN - len(part.found)]
                part.add(answers_of(scorer, chunk, said), chunk[-1].number)
                bar.move(part.rows, "")
        part.finish(schema_of(scorer))
    return part
