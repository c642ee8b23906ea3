"""Who runs the streams: `local` in this process; another engine would keep to the same `run`."""
