"""The Trimtab SDK and the `trimtab` command."""
