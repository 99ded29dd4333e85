-- Requests: one row for each request_id, for as long as the retention says.
CREATE TABLE requests (
  -- Never used again, also after a purge: a claim names its request by this number.
  seq            INTEGER PRIMARY KEY AUTOINCREMENT,
  request_id     TEXT    NOT NULL UNIQUE,
  provider       TEXT    NOT NULL,
  payment_key    TEXT    NOT NULL,
  digest         BLOB    NOT NULL,            -- SHA-256 of the content
  body           BLOB    NOT NULL,            -- exactly as received
  correlation_id TEXT,
  reply_to       TEXT,
  traceparent    TEXT,
  tracestate     TEXT,
  received_at    INTEGER NOT NULL,            -- milliseconds since the epoch, as every time here
  state          TEXT    NOT NULL,
  parked         INTEGER NOT NULL DEFAULT 0,  -- waits for an earlier request on the same payment
  due_at         INTEGER,                     -- NULL while claimed, parked or finished
  token          INTEGER NOT NULL DEFAULT 0,  -- counts claims; a write has to name the last one
  attempts       INTEGER NOT NULL DEFAULT 0,
  lookups        INTEGER NOT NULL DEFAULT 0,
  progress       TEXT    NOT NULL,            -- the rest of what the lifecycle remembers, JSON
  outcome        TEXT,
  reason         TEXT,
  finished_at    INTEGER
) STRICT;

-- At most one request works on a payment: the database says so, not the code.
CREATE UNIQUE INDEX one_active_request_per_payment
  ON requests (provider, payment_key) WHERE state <> 'finished' AND parked = 0;
CREATE INDEX parked_requests ON requests (provider, payment_key, seq) WHERE parked = 1;
CREATE INDEX due_requests ON requests (provider, due_at) WHERE due_at IS NOT NULL;
CREATE INDEX open_requests ON requests (provider, state, received_at) WHERE state <> 'finished';
CREATE INDEX finished_requests ON requests (finished_at) WHERE finished_at IS NOT NULL;

-- Calls: the intent is written before the first byte, the end with the outcome.
CREATE TABLE calls (
  request     INTEGER NOT NULL,
  number      INTEGER NOT NULL,
  operation   TEXT    NOT NULL,
  started_at  INTEGER NOT NULL,
  finished_at INTEGER,
  verdict     TEXT,
  evidence    TEXT,
  PRIMARY KEY (request, number)
) STRICT, WITHOUT ROWID;

-- Messages: the outbox, and what was said. published_at is NULL while one has to be published.
CREATE TABLE messages (
  -- Never used again: a confirmation names its message by this number.
  seq          INTEGER PRIMARY KEY AUTOINCREMENT,
  message_id   TEXT    NOT NULL,
  request      INTEGER,
  kind         TEXT    NOT NULL,
  routing_key  TEXT    NOT NULL,
  properties   TEXT    NOT NULL,
  body         BLOB    NOT NULL,
  created_at   INTEGER NOT NULL,
  published_at INTEGER,
  publications INTEGER NOT NULL DEFAULT 0
) STRICT;
-- A request has one result by its state. An invalid message that comes again has the same id.
CREATE UNIQUE INDEX messages_about_no_request ON messages (message_id) WHERE request IS NULL;
CREATE INDEX pending_messages ON messages (seq) WHERE published_at IS NULL;
CREATE INDEX messages_of_request ON messages (request) WHERE request IS NOT NULL;

-- Dead letters: what a person has to look at, until it is closed.
CREATE TABLE dead_letters (
  id          TEXT    PRIMARY KEY,
  request     INTEGER,
  request_id  TEXT,
  provider    TEXT    NOT NULL,
  outcome     TEXT    NOT NULL,
  reason      TEXT    NOT NULL,
  detail      TEXT    NOT NULL,
  body        BLOB    NOT NULL,
  received_at INTEGER NOT NULL,
  dead_at     INTEGER NOT NULL,
  closed_at   INTEGER
) STRICT;
CREATE INDEX open_dead_letters ON dead_letters (provider, reason, dead_at) WHERE closed_at IS NULL;
