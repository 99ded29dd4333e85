-- Dead letters that people work on. A request that is replayed keeps outcome and reason, which
-- are what its result said; its state says that it is open, and finished_at is empty meanwhile.
ALTER TABLE dead_letters ADD COLUMN closed_by TEXT;   -- replayed, discarded; empty while it is open
CREATE INDEX dead_letters_by_age ON dead_letters (dead_at, id) WHERE closed_at IS NULL;
CREATE INDEX dead_letters_of_request_id ON dead_letters (request_id) WHERE request_id IS NOT NULL;

-- Actions: who did what about a dead letter, when and why. They go with it.
CREATE TABLE actions (
  seq         BIGINT GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
  dead_letter TEXT   NOT NULL,
  request     BIGINT,
  action      TEXT   NOT NULL,               -- replayed, discarded, taken_back
  who         TEXT   NOT NULL,
  why         TEXT   NOT NULL,
  at          BIGINT NOT NULL
);
CREATE INDEX actions_of_dead_letter ON actions (dead_letter, seq);
CREATE INDEX actions_of_request ON actions (request, seq) WHERE request IS NOT NULL;

-- How many were ever closed, by action: a counter outlives what retention removes.
CREATE TABLE closings (
  action TEXT   PRIMARY KEY,
  number BIGINT NOT NULL
);
