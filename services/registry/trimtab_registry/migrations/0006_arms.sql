-- The versions in an A/B test of several, as objects; none of a rollout with one challenger.
ALTER TABLE rollouts ADD COLUMN arms jsonb NOT NULL DEFAULT '[]';
