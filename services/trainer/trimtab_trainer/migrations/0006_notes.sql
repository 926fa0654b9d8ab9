-- What people wrote on a run, oldest first: text, by, at_ms.
ALTER TABLE jobs ADD COLUMN notes jsonb NOT NULL DEFAULT '[]';
