"""PostgreSQL: connections, migrations, loading and sync state. SQL statements longer than a line are in `sql/`."""
