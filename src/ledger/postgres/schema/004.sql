-- How often a message entered the outbox again: what was published before that is no answer to it.
ALTER TABLE messages ADD COLUMN repeats BIGINT NOT NULL DEFAULT 0;
