-- Since when, in event time, the world is another, where drift ordered the run; and the run that this one makes once more.
ALTER TABLE jobs ADD COLUMN changed_at timestamptz, ADD COLUMN reproduces text NOT NULL DEFAULT '';
CREATE INDEX jobs_changes ON jobs (model, as_of) WHERE changed_at IS NOT NULL;

-- A run that is made once more holds up none of its model that is wanted.
DROP INDEX jobs_one_running_a_model;
CREATE UNIQUE INDEX jobs_one_running_a_model ON jobs (model) WHERE status = 'running' AND reproduces = '';
