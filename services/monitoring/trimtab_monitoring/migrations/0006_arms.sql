-- What the versions of an A/B test of several said that are beside the challenger, as JSON.
ALTER TABLE predictions ADD COLUMN others bytea;
