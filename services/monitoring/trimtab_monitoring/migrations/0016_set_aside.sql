-- Why Kafka takes a record no more: the relay has set it aside, and sends it again once this is NULL.
ALTER TABLE outbox ADD COLUMN refused text;
