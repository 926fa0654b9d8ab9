-- How long champion and challenger ran for a request, at its first row; NULL elsewhere, and where they were not asked alike.
ALTER TABLE predictions ADD COLUMN champion_us int, ADD COLUMN challenger_us int;
