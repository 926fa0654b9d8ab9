"""What monitoring does: nothing here knows Kafka, gRPC or PostgreSQL."""
