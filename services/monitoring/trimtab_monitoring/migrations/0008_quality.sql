-- Calibrations come to say what is usual of a version's data: those that do not are worked out again.
DELETE FROM calibrations;
-- What stands in the way of a retrain.
CREATE INDEX alerts_open ON alerts (subject) WHERE resolved_ms IS NULL;
-- How many events of a source came in each hour; `place` is the newest record of raw.<source> that is counted in.
CREATE TABLE flows (
    source text NOT NULL,
    partition int NOT NULL,
    hour_ms bigint NOT NULL,
    events bigint NOT NULL,
    repeats bigint NOT NULL,
    newest_ms bigint NOT NULL,
    place bigint NOT NULL,
    heard_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (source, partition, hour_ms)
);
-- One row a source: its lock, and what is remembered of what came.
CREATE TABLE flow_states (
    source text PRIMARY KEY,
    state jsonb
);
