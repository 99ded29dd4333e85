-- A request whose deadline passes while no call may begin ends without waiting for one. Requests that were
-- stored before have none here, and end when their turn comes.
SET LOCAL statement_timeout = 0;
ALTER TABLE requests ADD COLUMN deadline_at BIGINT;
CREATE INDEX deadlines ON requests (provider, deadline_at, seq)
  WHERE deadline_at IS NOT NULL AND due_at IS NOT NULL AND state IN ('due', 'waiting_retry');
-- What only asks what became of a call goes before new calls.
CREATE INDEX due_questions ON requests (provider, due_at, seq)
  WHERE due_at IS NOT NULL AND state IN ('waiting_provider', 'in_doubt');
