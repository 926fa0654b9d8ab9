"""Makes the topics that every stack has, as the catalogue in `trimtab_contracts.topics` lists them."""

from trimtab_stack.errors import StackError
from trimtab_stack.waiting import finish


def create_static_topics(servers: str) -> None:
    """Create the catalogue's static topics that are not there yet.

    The runtime is imported only here: Kafka and PostgreSQL alone need none of it.

    Raises:
        StackError: Kafka did not create them.
    """
    from trimtab_contracts import topics
    from trimtab_runtime import admin
    from trimtab_runtime.errors import TrimtabError

    try:
        finish(admin.ensure_topics(servers, topics.STATIC))
    except TrimtabError as error:
        raise StackError(f"the topics were not created: {error}") from error
