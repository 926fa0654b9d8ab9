"""The stories, and the rules of the architecture: a package, with whose last test the `whole` Trimtab ends."""
