"""PostgreSQL: connections, migrations, loading, state; each SQL statement longer than a line is in `sql/`."""
