-- What a worker that is gone had claimed: a start looks at these rows, and at no other open one.
CREATE INDEX claimed_requests ON requests (seq)
  WHERE due_at IS NULL AND parked = 0 AND state <> 'finished';

-- At most one request works on a payment: it has the payment's turn, 0. One that has finished keeps
-- it until another one takes it, so that an end touches no page of this index; on a large ledger
-- each such page is read and written for itself. NULL: it waits for the turn, or has lost it.
ALTER TABLE requests ADD COLUMN turn INTEGER DEFAULT 0
  CHECK (turn IS 0 OR (turn IS NULL AND (parked = 1 OR state = 'finished')));
UPDATE requests SET turn = NULL WHERE parked = 1;
UPDATE requests SET turn = NULL WHERE state = 'finished' AND EXISTS (
  SELECT 1 FROM requests o WHERE o.provider = requests.provider AND o.payment_key = requests.payment_key
    AND o.parked = 0 AND o.seq <> requests.seq AND (o.state <> 'finished' OR o.seq > requests.seq));
DROP INDEX one_active_request_per_payment;
DROP INDEX requests_of_payment;
CREATE UNIQUE INDEX one_turn_per_payment ON requests (provider, payment_key, turn);

-- How often a message entered the outbox again: what was published before that is no answer to it.
ALTER TABLE messages ADD COLUMN repeats INTEGER NOT NULL DEFAULT 0;
