"""Makes the topics that every stack has, as the catalogue in `trimtab_contracts.topics` lists them."""

import asyncio
from concurrent.futures import ThreadPoolExecutor


def create_static_topics(servers: str) -> None:
    """Create the catalogue's static topics that are not there yet.

    The runtime is imported only here: Kafka and PostgreSQL alone need none of it. The loop runs in a thread of its own,
    since the caller's may have one already.
    """
    from trimtab_contracts import topics
    from trimtab_runtime import admin

    with ThreadPoolExecutor(1) as thread:
        thread.submit(asyncio.run, admin.ensure_topics(servers, topics.STATIC)).result()
