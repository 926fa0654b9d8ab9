-- The model that a job evaluates in the place of fitting one, and what is known of it.
ALTER TABLE jobs ADD COLUMN registered jsonb;
