ALTER TABLE jobs DROP CONSTRAINT jobs_status_check;
ALTER TABLE jobs ADD CONSTRAINT jobs_status_check
    CHECK (status IN ('queued', 'running', 'succeeded', 'failed', 'cancelled'));

-- When a job is to be taken, the least first: when it was queued, and later the less urgent its trigger is.
ALTER TABLE jobs ADD COLUMN turn timestamptz;
UPDATE jobs SET turn = queued_at;
ALTER TABLE jobs ALTER COLUMN turn SET NOT NULL;
DROP INDEX jobs_waiting;
CREATE INDEX jobs_waiting ON jobs (turn) WHERE status IN ('queued', 'running');

-- How far the newest attempt is, and the file that it left as its log.
ALTER TABLE jobs ADD COLUMN progress jsonb, ADD COLUMN log jsonb;
