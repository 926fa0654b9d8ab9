-- Whether a delivery waits for the end of a silence; else what waits is being told, or was refused, and what comes after it waits too.
ALTER TABLE alert_deliveries ADD COLUMN silent boolean NOT NULL DEFAULT false;
UPDATE alert_deliveries SET silent = true FROM silences WHERE due_ms = until_ms;
