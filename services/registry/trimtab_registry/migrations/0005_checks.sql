-- What tools outside have to say of a version, by the spec it was admitted under, and what they have said; null of none.
ALTER TABLE versions ADD COLUMN checks jsonb;
CREATE INDEX awaiting_checks ON versions (model) WHERE stage = 'AWAITING_CHECKS';
