-- The newest that is known of each occasion.
CREATE TABLE alerts (
    place text PRIMARY KEY,
    subject text NOT NULL,
    at_ms bigint NOT NULL,
    alert jsonb NOT NULL,
    resolved_ms bigint
);
CREATE INDEX alerts_by_age ON alerts (at_ms);

-- What the sinks are still to be told.
CREATE TABLE alert_deliveries (
    sequence bigint GENERATED ALWAYS AS IDENTITY,
    sink text NOT NULL,
    id text NOT NULL,
    place text NOT NULL,
    alert jsonb NOT NULL,
    due_ms bigint NOT NULL,
    attempts int NOT NULL DEFAULT 0,
    fault text NOT NULL DEFAULT '',
    PRIMARY KEY (sink, id)
);
CREATE INDEX alert_deliveries_due ON alert_deliveries (due_ms);

CREATE TABLE silences (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    subject text NOT NULL,
    kind text NOT NULL,
    until_ms bigint NOT NULL,
    actor text NOT NULL,
    reason text NOT NULL,
    at timestamptz NOT NULL DEFAULT now()
);
