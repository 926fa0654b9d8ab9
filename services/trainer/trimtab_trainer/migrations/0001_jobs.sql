CREATE TABLE jobs (
    run_id text PRIMARY KEY,
    command_id text NOT NULL UNIQUE,
    model text NOT NULL,
    loop_id text NOT NULL,
    trigger text NOT NULL,
    as_of timestamptz NOT NULL,
    traceparent text,
    status text NOT NULL DEFAULT 'queued' CHECK (status IN ('queued', 'running', 'succeeded', 'failed')),
    attempts int NOT NULL DEFAULT 0,
    leased_by text,
    lease_until timestamptz,
    queued_at timestamptz NOT NULL,
    started_at timestamptz,
    finished_at timestamptz,
    event bytea
);
-- One job of a model at a time: the second waits its turn in the queue.
CREATE UNIQUE INDEX jobs_one_running_a_model ON jobs (model) WHERE status = 'running';
CREATE INDEX jobs_waiting ON jobs (queued_at) WHERE status IN ('queued', 'running');

CREATE TABLE outbox (
    sequence bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    topic text NOT NULL,
    key bytea,
    value bytea,
    headers jsonb NOT NULL
);
CREATE TABLE inbox (
    id text PRIMARY KEY,
    at timestamptz NOT NULL DEFAULT now()
);
