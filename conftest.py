"""Loads the fixtures that start the real Kafka and PostgreSQL, once a run."""

pytest_plugins = ["trimtab_stack.pytest_plugin"]
