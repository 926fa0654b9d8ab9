-- What serving saw and said, one row a prediction; `features` are float64, in the order that `versions` names.
CREATE TABLE predictions (
    model text NOT NULL,
    id text NOT NULL,
    key text NOT NULL,
    event_time_ms bigint NOT NULL,
    version bigint NOT NULL,
    generation bigint NOT NULL,
    challenger_version bigint NOT NULL,
    rollout_id text NOT NULL,
    champion float8 NOT NULL,
    challenger float8,
    features bytea NOT NULL,
    PRIMARY KEY (model, id)
);
CREATE INDEX predictions_in_order ON predictions (model, event_time_ms, id);

-- What came true, under source/on/value of the models that read it so.
CREATE TABLE labels (
    stream text NOT NULL,
    key text NOT NULL,
    event_time_ms bigint NOT NULL,
    value float8 NOT NULL,
    PRIMARY KEY (stream, key)
);
CREATE INDEX labels_by_age ON labels (stream, event_time_ms);

-- How far each writer has come in each partition of a stream.
CREATE TABLE marks (
    stream text NOT NULL,
    instance text NOT NULL,
    partition int NOT NULL,
    partitions int NOT NULL,
    time_ms bigint NOT NULL,
    heard_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (stream, instance, partition)
);

CREATE TABLE versions (
    model text NOT NULL,
    number bigint NOT NULL,
    reference jsonb,
    features text[],
    PRIMARY KEY (model, number)
);

CREATE TABLE calibrations (
    model text NOT NULL,
    version bigint NOT NULL,
    settings text NOT NULL,
    calibration jsonb,
    fault text,
    PRIMARY KEY (model, version, settings),
    CHECK ((calibration IS NULL) <> (fault IS NULL))
);

-- One row a model: its lock, what is remembered between two closings, and what the retrain policy remembers.
CREATE TABLE models (
    model text PRIMARY KEY,
    closed_ms bigint NOT NULL DEFAULT 0,
    watch jsonb,
    policy jsonb
);

CREATE TABLE readings (
    model text NOT NULL,
    series text NOT NULL,
    readings jsonb NOT NULL,
    PRIMARY KEY (model, series)
);

CREATE TABLE loops (
    sequence bigint GENERATED ALWAYS AS IDENTITY,
    id text PRIMARY KEY,
    model text NOT NULL,
    open boolean NOT NULL,
    loop jsonb NOT NULL
);
CREATE INDEX loops_of_a_model ON loops (model, sequence);

-- Reports that are still to be made.
CREATE TABLE reports (
    sequence bigint GENERATED ALWAYS AS IDENTITY,
    episode text PRIMARY KEY,
    report jsonb NOT NULL,
    attempts int NOT NULL DEFAULT 0,
    tried_at timestamptz
);

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
