-- Windows whose published metrics labels that come late may still correct; `next_ms` is when each is looked at again.
CREATE TABLE published (
    number bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    model text NOT NULL,
    from_ms bigint NOT NULL,
    next_ms bigint NOT NULL,
    published jsonb NOT NULL
);
CREATE INDEX published_by_turn ON published (model, next_ms);
