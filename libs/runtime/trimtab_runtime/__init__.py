"""How a Trimtab service meets Kafka, gRPC, PostgreSQL, the clock and its environment."""
