"""Makes the topics that every stack has, as the catalogue in `trimtab_contracts.topics` lists them."""

import asyncio
from concurrent.futures import ThreadPoolExecutor

from trimtab_stack.errors import StackError


def create_static_topics(servers: str) -> None:
    """Create the catalogue's static topics that are not there yet.

    The runtime is imported only here: Kafka and PostgreSQL alone need none of it. The loop runs in a thread of its own,
    since the caller's may have one already.

    Raises:
        StackError: Kafka did not create them.
    """
    from trimtab_contracts import topics
    from trimtab_runtime import admin
    from trimtab_runtime.errors import TrimtabError

    with ThreadPoolExecutor(1) as thread:
        try:
            thread.submit(lambda: asyncio.run(admin.ensure_topics(servers, topics.STATIC))).result()
        except TrimtabError as error:
            raise StackError(f"the topics were not created: {error}") from error
