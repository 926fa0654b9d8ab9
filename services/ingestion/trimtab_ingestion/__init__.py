"""Checks what producers send against the source's data contract."""
