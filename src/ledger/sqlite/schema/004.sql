-- What a worker that is gone had claimed: a start looks at these rows, and at no other open one.
CREATE INDEX claimed_requests ON requests (seq)
  WHERE due_at IS NULL AND parked = 0 AND state <> 'finished';
