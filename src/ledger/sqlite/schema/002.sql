-- Notifications. Of an open request: one came during the call, so that the next look-up is
-- at once. Of a finished one: its result is being checked, and due_at says when.
ALTER TABLE requests ADD COLUMN notified INTEGER NOT NULL DEFAULT 0;
CREATE INDEX notified_requests ON requests (seq) WHERE notified = 1;
CREATE INDEX requests_of_payment ON requests (provider, payment_key);
