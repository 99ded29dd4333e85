-- Notifications. Of an open request: one came during the call, so that the next look-up is
-- at once. Of a finished one: its result is being checked, and due_at says when.
ALTER TABLE requests ADD COLUMN notified BOOLEAN NOT NULL DEFAULT false;
CREATE INDEX requests_of_payment ON requests (provider, payment_key);
