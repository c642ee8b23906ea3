"""Normalization: convert one API document to rows. Pure: no clock, no I/O."""
