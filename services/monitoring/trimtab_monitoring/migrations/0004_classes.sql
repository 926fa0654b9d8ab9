-- Of a multiclass task: the chances of each class, float64; champion and challenger are the number of the most probable.
ALTER TABLE predictions ADD COLUMN champion_probabilities bytea, ADD COLUMN challenger_probabilities bytea;
-- Of a label that is a class its name, for the value is then not a number; each model has numbers of its own for it.
ALTER TABLE labels ADD COLUMN class text;
