-- name: settings
-- Disable limits set for the role or the server: a session is idle while a sync waits for the API, and the client
-- limits the time of statements. The keepalives let PostgreSQL detect a dead client within a minute and release its
-- locks.
SET idle_session_timeout = 0;
SET idle_in_transaction_session_timeout = 0;
SET statement_timeout = 0;
SET lock_timeout = 0;
SET default_transaction_isolation = 'read committed';
SET tcp_keepalives_idle = 30;
SET tcp_keepalives_interval = 10;
SET tcp_keepalives_count = 3;
SET tcp_user_timeout = '60s';
SELECT set_config('client_connection_check_interval', '10s', false) WHERE version() LIKE '%linux%'

-- name: settings_17
-- Also for PostgreSQL 17 and newer.
SET transaction_timeout = 0
