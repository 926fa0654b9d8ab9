-- What ingestion says of a source's batches and windows beside how many events came, by hour of the newest; `place` is as in flows.
CREATE TABLE hourly (
    source text NOT NULL,
    partition int NOT NULL,
    hour_ms bigint NOT NULL,
    name text NOT NULL,
    field text NOT NULL,
    rows bigint NOT NULL,
    total float8 NOT NULL,
    least float8 NOT NULL,
    most float8 NOT NULL,
    low float8,
    high float8,
    held boolean,
    place bigint NOT NULL,
    PRIMARY KEY (source, hour_ms, partition, name, field)
);
