"""Answers prediction requests with the live version and the freshest features."""
