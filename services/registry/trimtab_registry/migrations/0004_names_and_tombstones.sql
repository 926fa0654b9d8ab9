-- A generation that took the spec away keeps the document that was, for the history.
ALTER TABLE resources ADD COLUMN deleted boolean NOT NULL DEFAULT false;
CREATE INDEX deleted_resources ON resources (kind, name) WHERE deleted;

-- What people call a version; of one model no two have one alias, for both change under the model's lock.
ALTER TABLE versions ADD COLUMN aliases text[] NOT NULL DEFAULT '{}', ADD COLUMN tags jsonb NOT NULL DEFAULT '{}';

-- Since when nothing refers to a version's files, and when they were thrown away.
ALTER TABLE versions ADD COLUMN let_go_at timestamptz, ADD COLUMN files_gone_at timestamptz;
CREATE INDEX versions_with_files ON versions (created_at) WHERE files_gone_at IS NULL;
