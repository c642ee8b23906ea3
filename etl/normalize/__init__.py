"""Normalization: from one document of the API to rows, parents first. Pure: no clock, no I/O."""
