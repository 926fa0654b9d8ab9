-- Calibrations of another method are never asked for again.
DELETE FROM calibrations;
