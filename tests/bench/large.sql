-- Makes a ledger large: copies the requests that a worker wrote, with all that belongs to them.
-- Names, payments, ids and times of requests, calls and messages are new everywhere. What is said
-- inside a result keeps its template's times, and digests are random: both are looked at only when
-- a request comes again.

-- ?1: so many of each kind were written by the worker.
CREATE TEMP TABLE templates AS
SELECT state, row_number() OVER (PARTITION BY state ORDER BY seq) - 1 AS number, seq,
  substr(request_id, length('bench-') + 1) AS name, received_at
FROM requests WHERE seq <= 2 * ?1;
CREATE INDEX temp.of_state ON templates (state, number);

-- ?2: so many copies of each kind; ?3: now, in milliseconds. Finished ones of the last 60 days,
-- then those of an outage that began 20 hours ago.
CREATE TEMP TABLE copies AS
WITH RECURSIVE numbers(i) AS (SELECT 0 UNION ALL SELECT i + 1 FROM numbers WHERE i + 1 < ?2),
  kinds(state, earliest, latest) AS (
    VALUES ('finished', ?3 - 60 * 86400000, ?3 - 2 * 86400000),
           ('waiting_retry', ?3 - 20 * 3600000, ?3 - 1 * 3600000))
SELECT (SELECT max(seq) FROM requests) + row_number() OVER (ORDER BY k.state, i) AS seq,
  t.seq AS template, t.name AS old_name, lower(hex(randomblob(8))) AS name,
  lower(hex(randomblob(4)) || '-' || hex(randomblob(2)) || '-5' || substr(hex(randomblob(2)), 2)
    || '-8' || substr(hex(randomblob(2)), 2) || '-' || hex(randomblob(6))) AS message_id,
  earliest + (latest - earliest) * i / ?2 - received_at AS later,
  ?3 + 2 * 3600000 + abs(random() % (20 * 3600000)) AS due_at
FROM numbers CROSS JOIN kinds k
JOIN templates t ON t.state = k.state AND t.number = i % ?1;

INSERT INTO requests (seq, request_id, provider, payment_key, digest, body, correlation_id, reply_to,
  traceparent, tracestate, received_at, state, parked, due_at, token, attempts, lookups, progress,
  outcome, reason, finished_at, notified)
SELECT c.seq, replace(request_id, old_name, name), provider, replace(payment_key, old_name, name),
  randomblob(length(digest)), CAST(replace(CAST(body AS TEXT), old_name, name) AS BLOB),
  correlation_id, reply_to, traceparent, tracestate, received_at + later, state, parked,
  iif(r.due_at IS NULL, NULL, c.due_at), token, attempts, lookups,
  json_replace(progress,
    '$.due_at', strftime('%Y-%m-%dT%H:%M:%fZ', c.due_at / 1000.0, 'unixepoch'),
    '$.first_sent_at', strftime('%Y-%m-%dT%H:%M:%fZ', (received_at + later) / 1000.0, 'unixepoch'),
    '$.retrying_since', strftime('%Y-%m-%dT%H:%M:%fZ', (received_at + later) / 1000.0, 'unixepoch')),
  outcome, reason, finished_at + later, notified
FROM copies c JOIN requests r ON r.seq = c.template ORDER BY c.seq;

INSERT INTO calls (request, number, operation, started_at, finished_at, verdict, evidence)
SELECT c.seq, number, operation, started_at + later, finished_at + later, verdict,
  replace(evidence, old_name, name)
FROM copies c JOIN calls ON calls.request = c.template ORDER BY c.seq;

INSERT INTO messages (message_id, request, kind, routing_key, properties, body, created_at,
  published_at, publications)
SELECT c.message_id, c.seq, kind, routing_key, replace(properties, old_name, name),
  CAST(replace(replace(CAST(body AS TEXT), old_name, name), m.message_id, c.message_id) AS BLOB),
  created_at + later, published_at + later, publications
FROM copies c JOIN messages m ON m.request = c.template ORDER BY c.seq;

DROP TABLE copies;
DROP TABLE templates;
