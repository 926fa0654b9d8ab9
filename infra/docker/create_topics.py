"""Creates the topics that exist before any spec is applied; done again, it changes nothing."""

import asyncio
import os
import sys

from trimtab_contracts import topics
from trimtab_runtime.admin import ensure_topics
from trimtab_runtime.errors import TrimtabError

if __name__ == "__main__":
    try:
        asyncio.run(ensure_topics(os.environ["TRIMTAB_KAFKA_SERVERS"], topics.STATIC))  # noqa: TID251 - a process's own door
    except TrimtabError as error:
        sys.exit(str(error))
