"""A real Kafka, a real PostgreSQL and the services, as processes on one machine."""
