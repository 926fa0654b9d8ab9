-- Names that people give to datasets; a dataset is what a run was trained on.
CREATE TABLE dataset_tags (
    name text PRIMARY KEY,
    run_id text NOT NULL REFERENCES versions (run_id),
    tagged_by text NOT NULL,
    tagged_at timestamptz NOT NULL
);
