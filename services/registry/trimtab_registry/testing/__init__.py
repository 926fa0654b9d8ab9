"""What tests of the registry stand on: its store in memory, makers, and the whole of it beside a serving that is told what to say."""

from trimtab_registry.testing.harness import Harness
from trimtab_registry.testing.makers import a_run, an_evaluation, documents
from trimtab_registry.testing.store import MemoryStore

__all__ = ["Harness", "MemoryStore", "a_run", "an_evaluation", "documents"]
