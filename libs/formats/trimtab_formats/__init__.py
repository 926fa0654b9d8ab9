"""Avro and Protobuf records as JSON rows."""
