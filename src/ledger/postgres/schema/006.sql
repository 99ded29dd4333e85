-- Keys in an order that no library decides: that of the database may be another one after an upgrade of
-- the system, or on a standby, and an index in the old order does not find what it holds. A repeat
-- would be carried out again. The indexes are built anew, and nothing is written meanwhile.
SET LOCAL statement_timeout = 0;
LOCK TABLE requests, messages, dead_letters, actions, closings;

ALTER TABLE requests
  ALTER COLUMN request_id  TYPE TEXT COLLATE "C",
  ALTER COLUMN provider    TYPE TEXT COLLATE "C",
  ALTER COLUMN payment_key TYPE TEXT COLLATE "C",
  ALTER COLUMN state       TYPE TEXT COLLATE "C",
  ALTER COLUMN outcome     TYPE TEXT COLLATE "C";
ALTER TABLE messages
  ALTER COLUMN message_id  TYPE TEXT COLLATE "C";
ALTER TABLE dead_letters
  ALTER COLUMN id          TYPE TEXT COLLATE "C",
  ALTER COLUMN request_id  TYPE TEXT COLLATE "C",
  ALTER COLUMN provider    TYPE TEXT COLLATE "C",
  ALTER COLUMN reason      TYPE TEXT COLLATE "C";
ALTER TABLE actions
  ALTER COLUMN dead_letter TYPE TEXT COLLATE "C";
ALTER TABLE closings
  ALTER COLUMN action      TYPE TEXT COLLATE "C";

-- A statement that was prepared before gives an error for as long as its connection lives: workers of
-- the version before get new ones. Not on a database that is just being made, and not who waits to migrate.
SELECT pg_terminate_backend(pid, 1000) FROM pg_stat_activity
WHERE datname = current_database() AND usename = current_user
  AND application_name = current_setting('application_name')
  AND pid <> pg_backend_pid() AND wait_event IS DISTINCT FROM 'advisory'
  AND EXISTS (SELECT 1 FROM rescind_schema WHERE made_at < transaction_timestamp());
