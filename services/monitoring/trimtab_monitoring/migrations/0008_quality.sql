-- Calibrations come to say what is usual of a version's data: those that do not are worked out again.
DELETE FROM calibrations;
-- What stands in the way of a retrain.
CREATE INDEX alerts_open ON alerts (subject) WHERE resolved_ms IS NULL;
