-- The sinks that were told that it is on, and not yet that it is over. NULL, of what was open before this was kept: any may have been.
ALTER TABLE alerts ADD COLUMN told text[];
UPDATE alerts SET told = '{}' WHERE resolved_ms IS NOT NULL;
ALTER TABLE alerts ALTER COLUMN told SET DEFAULT '{}';
CREATE INDEX alert_deliveries_of_place ON alert_deliveries (sink, place);
