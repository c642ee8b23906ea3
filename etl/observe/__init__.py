"""Listeners that present a sync: logs, progress bars, metrics, alerts and traces. They depend only on events."""
