CREATE TABLE views (
    view text PRIMARY KEY,
    -- Of the generations before this one the slots are gone, or going.
    oldest bigint NOT NULL DEFAULT 0
);
-- How far features.<view> has been written here: the offset of each partition from which on it has not.
CREATE TABLE positions (
    view text,
    partition int,
    next bigint NOT NULL,
    PRIMARY KEY (view, partition)
);
-- How far the fold of a partition has come, as a record of the topic says it.
CREATE TABLE progress (
    view text,
    generation bigint,
    partition int,
    value bytea NOT NULL,
    PRIMARY KEY (view, generation, partition)
);
-- The newest record of each key of features.<view>. Its offset orders the slots of one entity, which lives in one partition.
CREATE TABLE slots (
    generation bigint,
    slot bigint NOT NULL,
    written bigint NOT NULL,
    index int,
    view text,
    entity bytea,
    value bytea NOT NULL,
    PRIMARY KEY (view, generation, entity, index)
) WITH (fillfactor = 85);
