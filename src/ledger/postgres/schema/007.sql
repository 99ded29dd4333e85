-- What is open, in one index that nobody has to leave for its rows: for the counts of every scrape, and
-- in the order of arrival for lists of one state. What has ended is not in it.
SET LOCAL statement_timeout = 0;
CREATE INDEX open_requests ON requests (state, seq) INCLUDE (provider, received_at, parked, outcome)
  WHERE state <> 'finished';
