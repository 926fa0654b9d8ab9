"""What is wrong with a schema or a record, as the cause alone: whoever has the record says of which, and the remedy.

ValueError
├── BadSchema     no record can be read by this text
└── Malformed     these bytes are no record of the schema
"""


class BadSchema(ValueError):
    """The text is no schema by which rows can be read."""


class Malformed(ValueError):
    """The bytes are no record of the schema."""
