-- What is replayed has its result, so it is not open: it is counted at each scrape by an index that
-- no request is in unless a person has replayed it, and only until that ends.
CREATE INDEX replayed_requests ON requests (provider, state, outcome)
  WHERE state <> 'finished' AND outcome IS NOT NULL;
