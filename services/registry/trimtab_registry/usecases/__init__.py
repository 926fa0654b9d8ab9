"""What the registry decides and does; nothing here knows Kafka, gRPC or PostgreSQL."""
