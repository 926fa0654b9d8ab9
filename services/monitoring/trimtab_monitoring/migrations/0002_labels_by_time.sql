-- A key may have many labels over time, such as a vehicle's: a prediction's is the first that follows it.
ALTER TABLE labels DROP CONSTRAINT labels_pkey, ADD PRIMARY KEY (stream, key, event_time_ms);
