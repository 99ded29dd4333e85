-- Times are milliseconds since the epoch, as in the worker; only leases go by the database's clock.

-- Workers: one row for each that may hold requests. Who does not renew its lease is gone.
CREATE TABLE workers (
  id          BIGINT      GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
  name        TEXT        NOT NULL,
  started_at  TIMESTAMPTZ NOT NULL DEFAULT clock_timestamp(),
  alive_until TIMESTAMPTZ NOT NULL
) WITH (fillfactor = 50);

-- The last transaction of each of a worker's connections, written by that transaction itself:
-- tells after a lost connection whether it was committed. (pg_xact_status cannot: a crash of
-- the server gives the numbers of transactions that never reached the disk to new ones.)
CREATE TABLE lanes (
  worker BIGINT   NOT NULL,
  lane   SMALLINT NOT NULL,
  number BIGINT   NOT NULL,
  PRIMARY KEY (worker, lane)
) WITH (fillfactor = 20);

-- Requests: one row for each request_id, for as long as the retention says.
CREATE TABLE requests (
  -- Never used again, also after a purge: a claim names its request by this number.
  seq         BIGINT  GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
  request_id  TEXT    NOT NULL UNIQUE,
  provider    TEXT    NOT NULL,
  payment_key TEXT    NOT NULL,
  digest      BYTEA   NOT NULL,                -- SHA-256 of the content
  body        BYTEA   NOT NULL,                -- exactly as received
  envelope    TEXT    NOT NULL,                -- the delivery's properties, JSON
  received_at BIGINT  NOT NULL,
  state       TEXT    NOT NULL,
  parked      BOOLEAN NOT NULL DEFAULT false,  -- waits for an earlier request on the same payment
  due_at      BIGINT,                          -- NULL while claimed, parked or finished
  token       BIGINT  NOT NULL DEFAULT 0,      -- drawn for each claim; a write has to name the last one
  owner       BIGINT,                          -- the worker that has claimed it
  attempts    BIGINT  NOT NULL DEFAULT 0,
  lookups     BIGINT  NOT NULL DEFAULT 0,
  progress    TEXT    NOT NULL,                -- the rest of what the lifecycle remembers, JSON
  outcome     TEXT,
  reason      TEXT,
  finished_at BIGINT
) WITH (autovacuum_vacuum_scale_factor = 0.05, autovacuum_analyze_scale_factor = 0.05);

-- At most one request works on a payment: the database says so, not the code.
CREATE UNIQUE INDEX one_active_request_per_payment
  ON requests (provider, payment_key) WHERE state <> 'finished' AND NOT parked;
CREATE INDEX parked_requests ON requests (provider, payment_key, seq) WHERE parked;
CREATE INDEX due_requests ON requests (provider, due_at, seq) WHERE due_at IS NOT NULL;
CREATE INDEX owned_requests ON requests (owner) WHERE owner IS NOT NULL;
CREATE INDEX finished_requests ON requests (finished_at) WHERE finished_at IS NOT NULL;

-- Calls: the intent is written before the first byte, the end with the outcome.
CREATE TABLE calls (
  request     BIGINT NOT NULL,
  number      BIGINT NOT NULL,
  operation   TEXT   NOT NULL,
  started_at  BIGINT NOT NULL,
  finished_at BIGINT,
  verdict     TEXT,
  evidence    TEXT,
  PRIMARY KEY (request, number)
) WITH (fillfactor = 60);

-- Messages: the outbox, and what was said. published_at is NULL while one has to be published.
CREATE TABLE messages (
  -- Never used again: a confirmation names its message by this number.
  seq          BIGINT GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
  message_id   TEXT   NOT NULL,
  request      BIGINT,
  owner        BIGINT,                         -- the worker that is to publish it
  kind         TEXT   NOT NULL,
  routing_key  TEXT   NOT NULL,
  properties   TEXT   NOT NULL,
  body         BYTEA  NOT NULL,
  created_at   BIGINT NOT NULL,
  published_at BIGINT,
  publications BIGINT NOT NULL DEFAULT 0
) WITH (autovacuum_vacuum_scale_factor = 0.05);
-- A request has one result by its state. An invalid message that comes again has the same id.
CREATE UNIQUE INDEX messages_about_no_request ON messages (message_id) WHERE request IS NULL;
CREATE INDEX pending_messages ON messages (seq) WHERE published_at IS NULL;
CREATE INDEX messages_of_request ON messages (request) WHERE request IS NOT NULL;

-- Dead letters: what a person has to look at, until it is closed.
CREATE TABLE dead_letters (
  id          TEXT   PRIMARY KEY,
  request     BIGINT,
  request_id  TEXT,
  provider    TEXT   NOT NULL,
  outcome     TEXT   NOT NULL,
  reason      TEXT   NOT NULL,
  detail      TEXT   NOT NULL,
  body        BYTEA  NOT NULL,
  received_at BIGINT NOT NULL,
  dead_at     BIGINT NOT NULL,
  closed_at   BIGINT
);
CREATE INDEX open_dead_letters ON dead_letters (provider, reason, dead_at) WHERE closed_at IS NULL;
CREATE INDEX dead_letters_of_request ON dead_letters (request) WHERE request IS NOT NULL;
