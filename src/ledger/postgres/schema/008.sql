-- What did not end as usual, in the order of arrival: most requests are cancelled.
SET LOCAL statement_timeout = 0;
CREATE INDEX unusual_ends ON requests (outcome, seq) WHERE outcome <> 'cancelled';
