-- Predictions that are to be labelled first; they go with the prediction.
CREATE TABLE wanted (
    model text NOT NULL,
    id text NOT NULL,
    wanted jsonb NOT NULL,
    PRIMARY KEY (model, id),
    FOREIGN KEY (model, id) REFERENCES predictions ON DELETE CASCADE
);
