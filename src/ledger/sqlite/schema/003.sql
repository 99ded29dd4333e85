-- Dead letters that people work on. A request that is replayed keeps outcome and reason, which
-- are what its result said; its state says that it is open, and finished_at is empty meanwhile.
ALTER TABLE dead_letters ADD COLUMN closed_by TEXT;   -- replayed, discarded; empty while it is open
CREATE INDEX dead_letters_by_age ON dead_letters (dead_at, id) WHERE closed_at IS NULL;
CREATE INDEX dead_letters_of_request ON dead_letters (request) WHERE request IS NOT NULL;
CREATE INDEX dead_letters_of_request_id ON dead_letters (request_id) WHERE request_id IS NOT NULL;

-- Actions: who did what about a dead letter, when and why. They go with it.
CREATE TABLE actions (
  seq         INTEGER PRIMARY KEY AUTOINCREMENT,
  dead_letter TEXT    NOT NULL,
  request     INTEGER,
  action      TEXT    NOT NULL,              -- replayed, discarded, taken_back
  who         TEXT    NOT NULL,
  why         TEXT    NOT NULL,
  at          INTEGER NOT NULL
) STRICT;
CREATE INDEX actions_of_dead_letter ON actions (dead_letter, seq);
CREATE INDEX actions_of_request ON actions (request, seq) WHERE request IS NOT NULL;

-- How many were ever closed, by action: a counter outlives what retention removes.
CREATE TABLE closings (
  action TEXT    PRIMARY KEY,
  number INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

-- What is replayed has its result: it does not count as open.
DROP INDEX open_requests;
CREATE INDEX open_requests ON requests (provider, state, received_at)
  WHERE state <> 'finished' AND outcome IS NULL;
