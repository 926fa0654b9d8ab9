-- Every reading that was told, of each window the newest revision; `sequence` rises, under the lock of the model, as they are told.
CREATE TABLE history (
    model text NOT NULL,
    to_ms bigint NOT NULL,
    id text NOT NULL,
    sequence bigint GENERATED ALWAYS AS IDENTITY,
    subject text NOT NULL,
    name text NOT NULL,
    feature text NOT NULL,
    version bigint NOT NULL,
    reading jsonb NOT NULL,
    PRIMARY KEY (model, to_ms, id)
);
CREATE UNIQUE INDEX history_as_told ON history (model, sequence);
