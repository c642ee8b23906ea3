"""Cortex workflow runs in PostgreSQL."""

__version__ = "0.1.0"
