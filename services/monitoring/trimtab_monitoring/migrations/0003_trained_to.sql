-- Event time of the newest row that a version was fitted to: what is newer is new to it.
ALTER TABLE versions ADD COLUMN trained_to_ms bigint;
