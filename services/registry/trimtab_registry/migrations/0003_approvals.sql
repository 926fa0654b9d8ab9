-- What a version waits for, by the spec it was admitted under, and who has approved; null of one that never waited.
ALTER TABLE versions ADD COLUMN approval jsonb;
UPDATE versions SET approval = '{}' WHERE stage = 'AWAITING_APPROVAL';
CREATE INDEX awaiting_approval ON versions (model) WHERE stage = 'AWAITING_APPROVAL';
