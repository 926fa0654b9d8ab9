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

-- Every generation of every spec; the highest is the current one.
CREATE TABLE resources (
    kind text NOT NULL,
    name text NOT NULL,
    generation bigint NOT NULL,
    document jsonb NOT NULL,
    digest text NOT NULL,
    applied_by text NOT NULL,
    applied_at timestamptz NOT NULL,
    PRIMARY KEY (kind, name, generation)
);

CREATE TABLE versions (
    model text NOT NULL,
    number bigint NOT NULL,
    run_id text NOT NULL UNIQUE,
    stage text NOT NULL,
    candidate jsonb NOT NULL,
    gates jsonb NOT NULL,
    loop_id text NOT NULL,
    traceparent text,
    as_of timestamptz NOT NULL,
    created_at timestamptz NOT NULL,
    PRIMARY KEY (model, number)
);

CREATE TABLE rollouts (
    id text PRIMARY KEY,
    model text NOT NULL,
    challenger bigint NOT NULL,
    strategy text NOT NULL,
    steps integer[] NOT NULL,
    step integer NOT NULL,
    phase text NOT NULL,
    generation bigint NOT NULL,
    opened_at timestamptz NOT NULL,
    loop_id text NOT NULL,
    traceparent text,
    FOREIGN KEY (model, challenger) REFERENCES versions (model, number)
);
CREATE UNIQUE INDEX one_open_rollout ON rollouts (model) WHERE phase NOT IN ('promoted', 'dropped');

-- What is wanted of a model; its row is the lock that every change of it takes.
CREATE TABLE models (
    name text PRIMARY KEY,
    generation bigint NOT NULL DEFAULT 0,
    champion bigint,
    previous bigint CHECK (previous <> champion),
    live bigint,
    rollout text REFERENCES rollouts (id),
    loop_id text NOT NULL DEFAULT '',
    changed_at timestamptz NOT NULL DEFAULT 'epoch',
    FOREIGN KEY (name, champion) REFERENCES versions (model, number),
    FOREIGN KEY (name, previous) REFERENCES versions (model, number),
    FOREIGN KEY (name, live) REFERENCES versions (model, number)
);

-- When each version was live; a version that is rolled back to has a second time.
CREATE TABLE reigns (
    model text NOT NULL,
    number bigint NOT NULL,
    live_from timestamptz NOT NULL,
    live_to timestamptz CHECK (live_to >= live_from),
    FOREIGN KEY (model, number) REFERENCES versions (model, number)
);
CREATE UNIQUE INDEX one_live_version ON reigns (model) WHERE live_to IS NULL;
CREATE INDEX reigns_of ON reigns (model, number, live_from);

CREATE TABLE audit (
    sequence bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    resource text NOT NULL,
    action text NOT NULL,
    actor text NOT NULL,
    reason text NOT NULL,
    details jsonb NOT NULL,
    at timestamptz NOT NULL
);
CREATE INDEX audit_of ON audit (resource, sequence);

CREATE FUNCTION refuse_change() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION 'the audit log is append-only: % is refused', TG_OP;
END $$;
CREATE TRIGGER append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON audit
    FOR EACH STATEMENT EXECUTE FUNCTION refuse_change();
