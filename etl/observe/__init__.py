"""What shows a sync to people and machines: logs, progress, reports. It knows events and the database, not the core."""
