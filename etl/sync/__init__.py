"""Bringing one stream up to date: fetch pages, compare them with the warehouse, normalize and load."""

from etl.sync.stream import Outcome, StreamSync, Task

__all__ = ["Outcome", "StreamSync", "Task"]
