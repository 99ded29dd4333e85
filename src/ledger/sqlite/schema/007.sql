-- What is open is counted at each scrape, without reading the rows.
DROP INDEX open_requests;
CREATE INDEX open_requests ON requests (provider, state, received_at, parked, outcome)
  WHERE state <> 'finished' AND outcome IS NULL;
