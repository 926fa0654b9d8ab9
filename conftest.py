"""Loads the fixtures that start the real Kafka and PostgreSQL, once a process of tests."""

import os

from hypothesis import settings

pytest_plugins = ["trimtab_stack.pytest_plugin"]

# Of two processes each is given a width, which a console takes for good, whatever a test says later.
os.environ.pop("COLUMNS", None)  # noqa: TID251 - before anything reads it

# A busy machine fails no property, and a run that fails does so again.
settings.register_profile("trimtab", deadline=None, derandomize=True)
settings.load_profile("trimtab")
