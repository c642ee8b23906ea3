"""Engines, which run the workers of an invocation: in this process, in other processes, or on a cluster."""
