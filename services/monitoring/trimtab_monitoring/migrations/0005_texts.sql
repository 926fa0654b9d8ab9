-- The features that are texts, as a JSON list; the features of a version are then its numbers and after them its texts.
ALTER TABLE predictions ADD COLUMN texts bytea;
