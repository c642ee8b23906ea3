"""The story of one stream: fetch, tell known from new, normalize, load."""

from etl.sync.stream import Outcome, StreamSync, Task

__all__ = ["Outcome", "StreamSync", "Task"]
