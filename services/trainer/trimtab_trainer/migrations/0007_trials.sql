-- What a search tried, kept as each trial ends: whoever takes the job over goes on from there.
CREATE TABLE trials (
    run_id text NOT NULL REFERENCES jobs ON DELETE CASCADE,
    number int NOT NULL,
    search text NOT NULL,  -- digest of the rows and the spec that it was tried for
    trial jsonb NOT NULL,
    PRIMARY KEY (run_id, number)
);
