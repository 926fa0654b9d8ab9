"""What is wrong with the schema that a source's format holds: told before the source is applied."""

import asyncio

from trimtab_core.specs import Place, SourceSpec
from trimtab_formats.errors import BadSchema
from trimtab_formats.schemas import compile_schema
from trimtab_runtime.errors import Unavailable


async def schema_faults(spec: SourceSpec) -> list[tuple[Place, str]]:
    """Return what is wrong: places in the spec, and a sentence for each.

    Raises:
        Unavailable: the compiler cannot be run.
    """
    said = spec.format
    if said.type == "json" or said.text is None:
        return []
    try:
        decoder = await asyncio.to_thread(compile_schema, said.type, said.text, message=said.message)
    except BadSchema as error:
        return [(("format", "schema"), f"no row can be read by it ({error}): mend it")]
    except OSError as error:
        raise Unavailable(f"the compiler of schemas cannot be run ({error})") from error
    names = decoder.names or frozenset()
    has = ", ".join(sorted(names)) or "none at all"
    return [
        (
            ("fields", name),
            f"{name!r} may not be missing, and the schema of the format has no such field but {has}: "
            "name one of them, make it nullable, or give it a default",
        )
        for name, field in spec.fields.items()
        if name not in names and not field.nullable and field.default is None
    ]
