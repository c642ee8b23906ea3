-- name: settings
-- Lifts what the role or the server may limit: between two statements a sync waits for the API, and it limits statements
-- itself. PostgreSQL finds out in a minute that a client is gone, and frees its locks.
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
-- The same, from PostgreSQL 17 on.
SET transaction_timeout = 0
