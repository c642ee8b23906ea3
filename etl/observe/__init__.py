"""Listeners that present a sync: logs, progress, metrics, alerts, traces. They depend on events, not on the core."""
