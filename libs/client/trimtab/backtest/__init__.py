"""What a spec would have done on history: the loop's own decisions, in one process, with no Kafka near."""
